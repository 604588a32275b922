"""Universal checkpoints are checked by themselves, and against the checkpoint they were made of."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from fixtures import FIXTURES

from zeroconsolidate import universal, verify
from zeroconsolidate.errors import NotACheckpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SOURCE = FIXTURES / "z2_groups" / "checkpoint"
FRAGMENT = "global_step2_universal/zero/layers.0.up.weight/exp_avg.pt"
MODEL = "global_step2_universal/mp_rank_00_model_states.pt"
STATE = "global_step2_universal/zero/optimizer_state.pt"
STEP = "global_step2_universal/zero/layers.0.up.weight/step.pt"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    universal(SOURCE, tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("case", ["z1_frozen", "z2_groups", "z3_scalar", "z3_subgroups_groups"])
def test_our_own_is_well(case: str, tmp_path: Path):
    source = FIXTURES / case / "checkpoint"
    universal(source, tmp_path / "out")
    for found in (verify(tmp_path / "out"), verify(tmp_path / "out", against=source)):
        assert found.problems == ()
        assert found.checks


def test_one_bit_of_a_fragment_is_found_twice(out: Path):
    path = out / FRAGMENT
    data = bytearray(path.read_bytes())
    start = bytes(data).rindex(b"PK\x07\x08") - 4  # the last element, before its record's checksum
    data[start] ^= 1
    path.write_bytes(data)
    alone = verify(out).problems
    assert alone == ("layers.0.up.weight/exp_avg: record data/0 is damaged: its CRC-32 is wrong",)
    (against,) = verify(out, against=SOURCE).problems
    assert against.startswith("layers.0.up.weight/exp_avg: differs first at element [14, 6]; expected")


def test_a_fragment_that_torch_wrote_with_other_values(out: Path):
    """Its checksum is right."""
    path = out / FRAGMENT
    content = torch.load(path, weights_only=True)
    content["param"][3, 2] += 1
    torch.save(content, path)
    assert any("layers.0.up.weight/exp_avg: differs first at element [3, 2]" in problem
               for problem in verify(out, against=SOURCE).problems)  # fmt: skip


def lose(path: Path) -> None:
    path.unlink()


def other_step(path: Path) -> None:
    torch.save(torch.tensor(9.0), path)


def other_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    torch.save({"param": "text"}, path)


@pytest.mark.parametrize(
    ("name", "change", "alone", "against"),
    [
        (FRAGMENT, lose, "exp_avg.pt: ", "layers.0.up.weight/exp_avg: the output has no such tensor"),
        (STEP, lose, "step.pt: ", "layers.0.up.weight: the step differs; expected 2.0, got None"),
        (STEP, other_step, "step.pt: the size differs", "the step differs; expected 2.0, got 9.0"),
        (MODEL, other_bytes, None, "it is not the checkpoint's"),
        (
            MODEL,
            lose,
            "model_states.pt: ",
            "it is not the checkpoint's",
        ),
        (
            STATE,
            other_bytes,
            "optimizer_state.pt: the sha256 differs",
            "optimizer_state.pt: it is not what the checkpoint says",
        ),
        (
            STATE,
            lose,
            "optimizer_state.pt: ",
            "is not what the checkpoint says",
        ),
    ],
)
def test_what_is_wrong(name: str, change: Callable[[Path], None], alone: str | None, against: str, out: Path):
    change(out / name)
    if alone is not None:
        assert any(alone in problem for problem in verify(out).problems)
    assert any(against in problem for problem in verify(out, against=SOURCE).problems)


@pytest.mark.parametrize(("change", "message"), [(empty, "the file is empty"), (text, "the file holds no tensor")])
def test_a_fragment_that_cannot_be_read(change: Callable[[Path], None], message: str, out: Path):
    change(out / FRAGMENT)
    assert any(message in problem for problem in verify(out).problems)
    with pytest.raises(ValueError, match=message):
        verify(out, against=SOURCE)


def test_what_deepspeeds_converter_writes(out: Path):
    """At stage 3 tensors are flat, without steps; with `--inject_missing_state` everything else has a folder, too."""
    shutil.copytree(FIXTURES / "z3_bf16" / "checkpoint", out.parent / "in")
    theirs = out.parent / "theirs"
    universal(out.parent / "in", theirs)
    (theirs / "zeroconsolidate.json").unlink()
    zero = theirs / "global_step2_universal" / "zero"
    for path in zero.glob("*/*.pt"):
        if path.stem == "step":
            path.unlink()
        else:
            torch.save(torch.load(path, weights_only=True)["param"].flatten().clone(), path)
    (zero / "head.weight").mkdir()
    torch.save({"param": torch.zeros(3)}, zero / "head.weight" / "fp32.pt")
    found = verify(theirs, against=out.parent / "in")
    assert found.problems == ()
    assert "0 steps against the checkpoint" in found.checks


def test_a_folder_without_fragments(out: Path):
    shutil.rmtree(out / "global_step2_universal" / "zero")
    with pytest.raises(NotACheckpoint, match="there are no fragments"):
        verify(out, against=SOURCE)
