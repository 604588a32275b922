"""`verify --subset`: how much is read, which it is, what is said; and the list of tensors with marks."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from fixtures import FIXTURES
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import zeroconsolidate
from zeroconsolidate.audit.subset import choose
from zeroconsolidate.cli import main
from zeroconsolidate.errors import BadOption
from zeroconsolidate.options.share import Share

if TYPE_CHECKING:
    from pathlib import Path

CHECKPOINT = FIXTURES / "z2_bf16/checkpoint"


@given(
    sizes=st.dictionaries(st.text(min_size=1), st.integers(0, 1000), min_size=1, max_size=20),
    percent=st.integers(1, 100),
)
def test_laws(sizes: dict[str, int], percent: int) -> None:
    """It fits, or it is the smallest; nothing is forgotten; nothing that would fit is left; all is all."""
    share = Share.parse(f"{percent}%")
    found = choose(sizes, share)
    assert found.chosen | {*found.unread} == {*sizes}
    assert not found.chosen & {*found.unread}
    assert found.chosen_bytes == sum(sizes[name] for name in found.chosen)
    budget = share.of(sum(sizes.values()))
    if found.chosen_bytes > budget:
        with_values = [size for size in sizes.values() if size]
        assert found.chosen_bytes == min(with_values)
    else:
        assert all(found.chosen_bytes + sizes[name] > budget for name in found.unread)
    assert any(found.chosen)
    assert choose(dict(reversed(sizes.items())), share).chosen == found.chosen
    assert choose(sizes, Share.parse("100%")).chosen == {*sizes} == choose(sizes, None).chosen


@pytest.mark.parametrize(
    ("given", "of_1000"), [("5%", 50), ("0.1 %", 1), ("100%", 1000), ("200B", 200), ("1K", 1000), ("10 GiB", 1000)]
)
def test_shares(given: str, of_1000: int) -> None:
    assert Share.parse(given).of(1000) == of_1000


@pytest.mark.parametrize("given", ["0%", "101%", "-5%", "5", "many", "5%%", "0B", "1e3%"])
def test_what_is_no_share(given: str) -> None:
    with pytest.raises(BadOption):
        zeroconsolidate.verify_source(CHECKPOINT, subset=given)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("subset") / "out"
    zeroconsolidate.consolidate(CHECKPOINT, folder, digest="sha256", max_shard_size="2KB")
    return folder


class TestAgainst:
    def test_it_says_what_was_not_read(self, output: Path) -> None:
        whole = zeroconsolidate.verify(output, against=CHECKPOINT)
        found = zeroconsolidate.verify(output, against=CHECKPOINT, subset="30%")
        assert found.ok
        assert 0 < found.bytes_read <= 0.3 * whole.bytes_read
        assert set(found.compared.values()) == {"=", "?"}
        assert sorted(found.unread) == sorted(name for name, mark in found.compared.items() if mark == "?")
        (note,) = (note for note in found.notes if note.startswith("not read, with --subset: "))
        assert f"{len(found.unread)} tensors of {found.tensors}" in note
        assert whole.unread == ()
        assert set(whole.compared.values()) == {"="}

    def test_damage_is_found_where_it_was_read_and_only_there(self, output: Path, tmp_path: Path) -> None:
        clean = zeroconsolidate.verify(output, against=CHECKPOINT, subset="30%")
        assert 0 < len(clean.unread) < len(clean.compared)
        for name in clean.compared:
            copy = shutil.copytree(output, tmp_path / "copy")
            (file,) = (path for path in copy.glob("*.safetensors") if name in load_file(path))
            tensors = load_file(file)
            tensors[name] = ~tensors[name] if tensors[name].dtype is torch.bool else tensors[name] + 1
            save_file(tensors, file)
            found = zeroconsolidate.verify(copy, against=CHECKPOINT, subset="30%")
            assert found.ok is (name in clean.unread), name
            assert found.compared[name] == ("?" if name in clean.unread else "*")
            shutil.rmtree(copy)


class TestOthers:
    def test_an_output_with_digests(self, output: Path) -> None:
        whole = zeroconsolidate.verify(output)
        found = zeroconsolidate.verify(output, subset="40%")
        assert found.ok and whole.ok
        assert 0 < found.bytes_read < whole.bytes_read
        assert found.unread and set(found.unread) < {path.name for path in output.iterdir()}

    @pytest.mark.parametrize("case", ["z2_bf16", "z3_bf16", "z1_round_robin"])
    def test_a_checkpoint(self, case: str) -> None:
        source = FIXTURES / case / "checkpoint"
        whole, found = (zeroconsolidate.verify_source(source, subset=share) for share in (None, "20%"))
        assert found.ok
        assert 0 < found.bytes_read < whole.bytes_read / 2
        assert any(note.startswith("CRC-32 not checked, with --subset") for note in found.notes)
        assert len(found.unread) < found.tensors
        # Nothing is said to be checked that was not read.
        assert "every value for NaN and infinity" in whole.checks
        read = found.tensors - len(found.unread)
        assert f"every value of {read} of {found.tensors} tensors for NaN and infinity" in found.checks

    def test_a_universal_checkpoint(self, tmp_path: Path) -> None:
        zeroconsolidate.universal(CHECKPOINT, tmp_path / "out")
        for against in (None, CHECKPOINT):
            whole, found = (zeroconsolidate.verify(tmp_path / "out", against=against, subset=s) for s in (None, "25%"))
            assert found.ok
            assert 0 < found.bytes_read < whole.bytes_read
            assert found.unread


class TestCommand:
    def run(self, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
        code = main(list(map(str, words)))
        return code, capsys.readouterr().out

    def test_every_mark(self, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        copy = shutil.copytree(output, tmp_path / "copy")
        (copy / "zeroconsolidate.json").unlink()
        for file in copy.glob("*.safetensors"):
            file.unlink()
        (copy / "model.safetensors.index.json").unlink()
        tensors: dict[str, torch.Tensor] = {}
        for file in output.glob("*.safetensors"):
            tensors |= load_file(file)
        names = sorted(tensors)
        tensors[names[0]] = tensors[names[0]] + 1
        tensors[names[1]] = tensors[names[1]].reshape(-1)[:1].clone()
        del tensors[names[2]]
        tensors["stranger"] = torch.ones(2)
        save_file(tensors, copy / "model.safetensors")
        code, text = self.run(capsys, "verify", copy, CHECKPOINT, "--tensors")
        assert code == 1
        lines = text.splitlines()
        for mark, name in zip("*!-", names, strict=False):
            assert f"  {mark} {name}" in lines
        assert "  + stranger" in lines
        assert f"  = {names[3]}" in lines
        counts = (
            f"  = equal: {len(names) - 3}, * other values: 1, + only in the output: 1, - only in the checkpoint: 1, "
        )
        assert f"{counts}! not comparable: 1" in lines

    def test_as_json(self, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
        code, text = self.run(capsys, "verify", output, CHECKPOINT, "--subset", "30%", "--json")
        found: dict[str, Any] = json.loads(text)
        assert code == 0
        assert set(found["compared"].values()) == {"=", "?"}
        assert found["unread"]

    def test_a_checkpoint_alone(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run(capsys, "verify", CHECKPOINT, "--subset", "10K")[0] == 0
        assert main(["verify", str(CHECKPOINT), "--tensors"]) == 2
        assert "--tensors compares an OUTPUT with its CHECKPOINT" in capsys.readouterr().err
