"""`verify` finds what is wrong, names it, and says so only then."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import synthetic
import torch
from fixtures import FIXTURES

import zeroconsolidate
from zeroconsolidate import ZeroConsolidateError, consolidate, inspect, verify, verify_source
from zeroconsolidate.archive.safetensors import read_model
from zeroconsolidate.errors import MissingPackage, NotACheckpoint
from zeroconsolidate.run import compare


def readable(case: str) -> bool:
    """Whether a fixture is one we can convert at all; what cannot be read is other tests' business."""
    try:
        inspect(FIXTURES / case / "checkpoint")
    except ZeroConsolidateError:
        return False
    return True


CASES = [case for case in sorted(p.parent.name for p in FIXTURES.glob("z*/checkpoint")) if readable(case)]

LAYOUTS = [
    case
    for case in sorted(f"layouts/{path.parent.name}" for path in FIXTURES.glob("layouts/*/checkpoint"))
    if readable(case)
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("verify") / "checkpoint-5"
    synthetic.write(root, synthetic.values_of(synthetic.shapes_of(2)), stage=2, ranks=3)
    (root / "config.json").write_text(json.dumps({"dtype": "bfloat16", "num_hidden_layers": 4}))
    return root


@pytest.fixture
def output(checkpoint: Path, tmp_path: Path) -> Path:
    consolidate(checkpoint, tmp_path / "model", max_shard_size="1MB", digest="sha256", names="stored")
    return tmp_path / "model"


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 0x40]))


def half_done(directory: Path) -> None:
    (directory / ".zeroconsolidate").mkdir()
    (directory / ".zeroconsolidate/journal").touch()


def edit(path: Path, change: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def middle_of(directory: Path, name: str) -> tuple[Path, int, int]:
    """(file, byte, element) in the middle of a tensor."""
    tensor = read_model(str(directory)).tensors[name]
    element = tensor.numel // 2
    return Path(tensor.file), tensor.start + element * tensor.dtype.itemsize, element


class TestOutput:
    def test_a_good_one_is_well(self, output: Path) -> None:
        found = verify(output)
        assert found.problems == ()
        (note,) = found.notes
        assert note.startswith("not checked: names")  # the config names no model
        assert found.bytes_read > 1_900_000

    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("digest", ["sha256", "xxh3"])
    def test_every_fixture_is_well(self, case: str, digest: str, tmp_path: Path) -> None:
        if digest == "xxh3":
            pytest.importorskip("xxhash")
        consolidate(FIXTURES / case / "checkpoint", tmp_path / "out", digest=digest)
        assert verify(tmp_path / "out").problems == ()

    def test_digests_are_those_of_other_tools(self, output: Path) -> None:
        manifest = json.loads((output / "zeroconsolidate.json").read_text())
        listed = {name: entry["sha256"] for name, entry in manifest["files"].items()}
        said = subprocess.run(["sha256sum", *listed], cwd=output, capture_output=True, text=True, check=True).stdout
        assert listed == {name: digest for digest, name in map(str.split, said.splitlines())}
        import hashlib

        tensors = safetensors.torch.load_file(next(output.glob("model-00001*")))
        for name, tensor in tensors.items():
            assert hashlib.sha256(tensor.numpy().tobytes()).hexdigest() == manifest["tensors"][name]["sha256"]

    def test_one_bit_is_found_and_traced_to_its_tensor(self, output: Path) -> None:
        file, byte, _ = middle_of(output, "layers.2.up.weight")
        flip(file, byte)
        (problem,) = verify(output).problems
        assert problem.startswith(f"{file.name}: the sha256 differs, in layers.2.up.weight;")

    def test_without_digests_it_says_that_contents_were_not_checked(self, checkpoint: Path, tmp_path: Path) -> None:
        consolidate(checkpoint, tmp_path / "out", names="stored")
        found = verify(tmp_path / "out")
        assert found.ok
        assert any("no digests of the weights" in note for note in found.notes)

    def test_what_other_tools_wrote_is_checked_in_form(self, tmp_path: Path) -> None:
        safetensors.torch.save_file({"a": torch.ones(3)}, tmp_path / "model.safetensors")
        found = verify(tmp_path)
        assert found.ok
        assert "no zeroconsolidate.json" in found.notes[0]

    @pytest.mark.parametrize(
        ("damage", "said"),
        [
            (lambda d: os.truncate(d / "model-00001-of-00003.safetensors", 5000), "size does not fit its header"),
            (
                lambda d: os.truncate(d / "model-00001-of-00003.safetensors", 5),
                "not a safetensors file, or it is cut off",
            ),
            (lambda d: (d / "model-00002-of-00003.safetensors").unlink(), "cannot be read: no such file"),
            (lambda d: (d / "model-00007-of-00009.safetensors").write_bytes(b""), "index does not name this file"),
            (lambda d: (d / "config.json").unlink(), "config.json: no such file"),
            (lambda d: edit(d / "config.json", {"dtype": "bfloat16"}), "'dtype' is 'bfloat16', but the weights are"),
            (lambda d: edit(d / "config.json", {"num_hidden_layers": 5}), "'num_hidden_layers' is 5, but"),
            (lambda d: edit(d / "config.json", {"x": 1}), "config.json: the sha256 differs"),
            (
                lambda d: edit(d / "model.safetensors.index.json", {"metadata": {"total_size": 3}}),
                "'total_size' is wrong",
            ),
            (
                lambda d: edit(d / "model.safetensors.index.json", {"weight_map": {"embed.weight": "../x"}}),
                "outside of its folder",
            ),
            (lambda d: half_done(d), "was interrupted"),
            (lambda d: (d / "zeroconsolidate.json").write_text("{}"), "a version that this library does not know"),
            (
                lambda d: shutil.copy(d / "model-00001-of-00003.safetensors", d / "model-00002-of-00003.safetensors"),
                "is also in model-00001",
            ),
        ],
    )
    def test_damage_is_named(self, output: Path, damage: Any, said: str) -> None:
        assert len(list(output.glob("model-*"))) == 3
        damage(output)
        found = verify(output)
        assert any(said in problem for problem in found.problems), found.problems

    def test_what_the_manifest_lists_is_compared(self, checkpoint: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        consolidate(checkpoint, out, names="stored")
        weights = safetensors.torch.load_file(out / "model.safetensors")
        weights["extra"] = weights.pop("layers.0.norm.weight")
        weights["layers.1.norm.weight"] = weights["layers.1.norm.weight"].bfloat16()
        weights["layers.2.norm.weight"] = weights["layers.2.norm.weight"][None]
        safetensors.torch.save_file(weights, out / "model.safetensors")
        problems = "\n".join(verify(out).problems)
        assert re.search(r"layers\.0\.norm\.weight: not as in the manifest; expected .*, got nothing", problems)
        assert re.search(r"layers\.1\.norm\.weight: not as in the manifest; expected .*'F32'.*, got .*'BF16'", problems)
        assert re.search(r"layers\.2\.norm\.weight: not as in the manifest; expected .*, got .*\[1, ", problems)
        assert "extra: the manifest has no such tensor" in problems

    def test_sizes_are_compared_where_there_are_no_digests(self, checkpoint: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        consolidate(checkpoint, out, names="stored")
        weights = safetensors.torch.load_file(out / "model.safetensors")
        safetensors.torch.save_file(weights, out / "model.safetensors", {"of": "someone else"})
        (problem,) = verify(out).problems
        assert problem.startswith("model.safetensors: the size differs")

    def test_an_index_and_its_files_must_fit(self, output: Path) -> None:
        index = json.loads((output / "model.safetensors.index.json").read_text())
        files, names = index["weight_map"], list(index["weight_map"])
        other = next(file for file in files.values() if file != files[names[0]])
        edit(output / "model.safetensors.index.json", {"weight_map": files | {names[0]: other}})
        assert any("which has no such tensor" in problem for problem in verify(output).problems)
        edit(output / "model.safetensors.index.json", {"weight_map": {n: f for n, f in files.items() if n != names[0]}})
        assert any("which the index does not name" in problem for problem in verify(output).problems)

    def test_there_must_be_something(self, tmp_path: Path) -> None:
        with pytest.raises(NotACheckpoint):
            verify(tmp_path / "nowhere")
        assert not verify(tmp_path).ok


class TestConfig:
    @pytest.mark.parametrize(
        ("config", "said"),
        [
            ({"vocab_size": 8, "hidden_size": 4}, None),
            ({"vocab_size": 7, "hidden_size": 4}, None),  # rows may be padded
            ({"vocab_size": 9, "hidden_size": 4}, "'vocab_size' is 9, but model.embed_tokens.weight has 8 rows"),
            ({"vocab_size": 8, "hidden_size": 5}, "the width is 5, but model.embed_tokens.weight has 4 columns"),
            ({"text_config": {"vocab_size": 9}}, "'vocab_size' is 9"),
            ([], "expected an object"),
        ],
    )
    def test_against_shapes(self, config: Any, said: str | None, tmp_path: Path) -> None:
        safetensors.torch.save_file({"model.embed_tokens.weight": torch.ones(8, 4)}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config))
        problems = verify(tmp_path).problems
        assert (problems == ()) if said is None else (said in problems[0])

    @pytest.mark.parametrize(("rows", "checked"), [(8, "vocabulary and width"), (7, "width")])
    def test_rows_that_may_be_padded_are_not_said_to_be_checked(self, rows: int, checked: str, tmp_path: Path) -> None:
        safetensors.torch.save_file({"model.embed_tokens.weight": torch.ones(8, 4)}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps({"vocab_size": rows, "hidden_size": 4}))
        assert f"config.json: {checked}" in verify(tmp_path).checks


class TestAgainst:
    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("options", [{}, {"dtype": "bf16"}, {"ties": "copy"}, {"exclude": ["layers.0.*"]}])
    def test_our_own_output_is_equal(self, case: str, options: dict[str, Any], tmp_path: Path) -> None:
        consolidate(FIXTURES / case / "checkpoint", tmp_path / "out", **options)
        found = verify(tmp_path / "out", against=FIXTURES / case / "checkpoint")
        assert found.problems == ()

    @pytest.mark.parametrize("case", CASES)
    def test_the_live_engines_values_are_equal(self, case: str, tmp_path: Path) -> None:
        """Another tool's output: what the engine held in memory, saved as a pickle."""
        expected = safetensors.torch.load_file(FIXTURES / case / "expected.safetensors")
        torch.save({name: value.clone() for name, value in expected.items()}, tmp_path / "pytorch_model.bin")
        found = verify(tmp_path, against=FIXTURES / case / "checkpoint")
        assert found.problems == ()
        assert found.tensors == len(expected)

    @pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
    def test_one_bit_is_found_with_its_index(
        self, checkpoint: Path, tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(compare, "BLOCK_BYTES", 4096)  # it is not in the first of them
        monkeypatch.setattr(compare, "AT_ONCE_NUMEL", 50)
        consolidate(checkpoint, tmp_path / "out", dtype=dtype, names="stored")
        file, byte, element = middle_of(tmp_path / "out", "layers.1.down.weight")
        flip(file, byte)
        width = read_model(str(tmp_path / "out")).tensors["layers.1.down.weight"].shape[1]
        (problem,) = verify(tmp_path / "out", against=checkpoint).problems
        index = [*divmod(element, width)]
        assert problem.startswith(f"layers.1.down.weight: differs first at element {index}; expected ")

    def test_nan_payloads_count_where_nothing_was_cast(self, tmp_path: Path) -> None:
        values = synthetic.values_of(synthetic.shapes_of(1))
        values["embed.weight"][0, 0] = float("nan")
        synthetic.write(tmp_path / "c", values, stage=3, ranks=2)
        for dtype, equal in (("bf16", True), ("fp32", False)):
            consolidate(tmp_path / "c", tmp_path / dtype, dtype=dtype)
            tensor = read_model(str(tmp_path / dtype)).tensors["embed.weight"]
            flip(Path(tensor.file), tensor.start)  # another payload of the same NaN
            with open(tensor.file, "r+b") as file:
                file.seek(tensor.start)
                file.write(b"\xc1\x7f" if dtype == "bf16" else b"\x01\x00\xc0\x7f")
            assert verify(tmp_path / dtype, against=tmp_path / "c").ok is equal

    def test_missing_extra_and_misshapen_tensors_are_named(self, checkpoint: Path, tmp_path: Path) -> None:
        consolidate(checkpoint, tmp_path / "out", names="stored")
        weights = safetensors.torch.load_file(tmp_path / "out/model.safetensors")
        (tmp_path / "other").mkdir()
        weights["extra"] = weights.pop("layers.0.norm.weight")
        weights["layers.1.norm.weight"] = weights["layers.1.norm.weight"][:-1].clone()
        weights["position"] = weights["position"].float()
        safetensors.torch.save_file(weights, tmp_path / "other/model.safetensors")
        problems = "\n".join(verify(tmp_path / "other", against=checkpoint).problems)
        assert "extra: the checkpoint has no such tensor" in problems
        assert "layers.0.norm.weight: the output has no such tensor" in problems
        assert "layers.1.norm.weight: the shape differs" in problems
        assert "position: the dtype differs; expected I64, got F32" in problems

    @pytest.mark.parametrize("stage", [2, 3])
    def test_what_came_from_a_base_is_compared_with_it(self, stage: int, tmp_path: Path) -> None:
        consolidate(FIXTURES / f"z{stage}_frozen/checkpoint", tmp_path / "base")
        source = FIXTURES / f"z{stage}_exclude_frozen/checkpoint"
        consolidate(source, tmp_path / "out", base=tmp_path / "base")
        assert verify(tmp_path / "out", against=source, base=tmp_path / "base").problems == ()
        found = verify(tmp_path / "out", against=source)
        assert any("the checkpoint has no such tensor" in problem for problem in found.problems)
        assert found.notes == (
            "the output was made with the base model base: name its directory with --base, and compare again",
        )
        frozen = next(tensor.name for tensor in inspect(FIXTURES / f"z{stage}_frozen/checkpoint").tensors if
                      tensor.role == "frozen" and tensor.shape)  # fmt: skip
        tensor = read_model(str(tmp_path / "base")).tensors[frozen]
        flip(Path(tensor.file), tensor.start)
        (problem,) = verify(tmp_path / "out", against=source, base=tmp_path / "base").problems
        assert problem.startswith(f"{frozen}: differs first at element")

    @pytest.mark.parametrize("dtype", ["fp32", "bf16"])
    @pytest.mark.parametrize("case", ["lora_bias_z2", "lora_patterns_z3", "lora_tokens_z3"])
    def test_a_merge_into_a_model_that_ties_its_head(self, case: str, dtype: str, tmp_path: Path) -> None:
        """The base's files have the embedding only, and so has the output. `compare` knows it, too."""
        source, base = FIXTURES / "models" / case / "checkpoint", FIXTURES / "models" / "_bases" / "qwen2"
        consolidate(source, tmp_path / "out", lora="merge", base=base, dtype=dtype)
        assert "lm_head.weight" not in read_model(str(tmp_path / "out")).tensors
        found = verify(tmp_path / "out", against=source, base=base)
        assert found.problems == ()
        assert "lm_head.weight" not in found.compared
        for pair in ((tmp_path / "out", source), (source, tmp_path / "out")):
            compared = zeroconsolidate.compare(*pair, base=base)
            assert (compared.equal, compared.only_a, compared.only_b, compared.suspicions) == (True, (), (), ())

    def test_another_step_is_not_equal(self, checkpoint: Path, tmp_path: Path) -> None:
        consolidate(checkpoint, tmp_path / "out", names="stored")
        synthetic.write(tmp_path / "c", synthetic.values_of(synthetic.shapes_of(2), seed=8), stage=3, ranks=2)
        assert len(verify(tmp_path / "out", against=tmp_path / "c").problems) == 13


class TestSource:
    @pytest.mark.parametrize("case", CASES)
    def test_every_fixture_is_well(self, case: str) -> None:
        found = verify_source(FIXTURES / case / "checkpoint")
        assert found.problems == ()

    @pytest.fixture
    def copy(self, checkpoint: Path, tmp_path: Path) -> Path:
        shutil.copytree(checkpoint, tmp_path / "c")
        return tmp_path / "c"

    def test_one_bit_of_a_master_is_found_twice(self, copy: Path) -> None:
        file = copy / "global_step5/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
        flip(file, file.stat().st_size // 2)
        problems = verify_source(copy).problems
        assert any(re.search(r"rank_1.*: record data/0 is damaged: its CRC-32 is wrong", p) for p in problems)

    def test_one_bit_of_a_model_file_is_found(self, copy: Path) -> None:
        file = copy / "global_step5/mp_rank_00_model_states.pt"
        flip(file, file.stat().st_size // 2)
        problems = verify_source(copy).problems
        assert any("its CRC-32 is wrong" in p for p in problems)
        assert any("do not round to the copy" in p for p in problems)

    @pytest.mark.parametrize(
        ("name", "key"),
        [
            ("bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt", b"param_groups"),
            ("mp_rank_00_model_states.pt", b"ds_config"),
        ],
    )
    def test_one_bit_of_a_pickle_is_found(self, copy: Path, name: str, key: bytes) -> None:
        """One that nothing else notices: a key that nobody asks for."""
        file = copy / "global_step5" / name
        flip(file, file.read_bytes().index(key))
        (problem,) = verify_source(copy).problems
        assert problem.startswith(f"{name}: record data.pkl is damaged: its CRC-32 is wrong")

    def test_one_master_among_many_is_found_by_the_witness(self, copy: Path) -> None:
        """In the middle of a large tensor, which a sample passes over, and saved with its right checksum."""
        file = copy / "global_step5/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
        content = torch.load(file, weights_only=False)
        flat = content["optimizer_state_dict"]["single_partition_of_fp32_groups"][0]
        flat[20_000] += 1
        torch.save(content, file)
        (problem,) = verify_source(copy).problems
        assert problem.startswith(
            "embed.weight: the master weights do not round to the copy in 'module' (element 20000)"
        )
        consolidate(copy, copy.parent / "out", check="sample", names="stored")

    def test_ranks_that_do_not_agree_are_found(self) -> None:
        """Parts of a tensor-parallel model that every rank holds, and that have drifted apart in training."""
        problems = verify_source(FIXTURES / "layouts/tp3_z1_uneven/checkpoint").problems
        assert problems
        assert all("the copies that" in problem and "differ" in problem for problem in problems)

    def test_masters_of_another_save_are_found_by_the_witness(self, copy: Path, tmp_path: Path) -> None:
        """Every file sound by itself, steps and shapes equal: only the values tell."""
        other = synthetic.write(tmp_path / "o", synthetic.values_of(synthetic.shapes_of(2), seed=9), stage=2, ranks=3)
        name = "bf16_zero_pp_rank_2_mp_rank_00_optim_states.pt"
        shutil.copy(other / name, copy / "global_step5" / name)
        problems = verify_source(copy).problems
        assert problems
        assert all("do not round to the copy" in problem for problem in problems)

    def test_nan_and_infinity_are_counted(self, tmp_path: Path) -> None:
        values = synthetic.values_of(synthetic.shapes_of(1))
        values["embed.weight"].view(-1)[3:6] = float("nan")
        values["layers.0.norm.weight"][1] = float("-inf")
        synthetic.write(tmp_path / "c", values, stage=3, ranks=2)
        found = verify_source(tmp_path / "c")
        assert found.ok
        assert found.nonfinite == {"embed.weight": (3, 0), "layers.0.norm.weight": (0, 1)}


@pytest.mark.parametrize("case", LAYOUTS)
def test_every_layout_is_well(case: str, tmp_path: Path) -> None:
    """What is verified knows nothing of ZeRO: pipelines, experts and tensor parallelism are verified alike."""
    root = FIXTURES / case / "checkpoint"
    try:
        consolidate(root, tmp_path / "out", names="stored", digest="sha256")
    except ZeroConsolidateError as error:
        pytest.skip(f"it is not converted, and other tests say why: {error}")
    assert verify(tmp_path / "out").problems == ()
    assert verify(tmp_path / "out", against=root).problems == ()
    assert verify_source(root).problems == ()


class TestCommand:
    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "zeroconsolidate", "verify", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def test_exit_codes(self, output: Path, checkpoint: Path) -> None:
        assert self.run(output).returncode == 0
        assert self.run(output, "--against", checkpoint).returncode == 0
        assert self.run("--source", checkpoint).returncode == 0
        file, byte, _ = middle_of(output, "embed.weight")
        flip(file, byte)
        done = self.run(output)
        assert (done.returncode, done.stdout.count("WRONG")) == (1, 1)
        done = self.run(output, "--against", checkpoint, "--json")
        assert done.returncode == 1
        assert json.loads(done.stdout)["problems"][0].startswith("embed.weight: differs first at element")
        assert self.run().returncode == 2
        assert self.run(output, "--source", checkpoint).returncode == 2
        done = self.run("--source", checkpoint, "--against", checkpoint)
        assert (done.returncode, done.stdout) == (2, "")
        assert "--source takes a checkpoint and nothing else" in done.stderr


def test_progress_ends_at_the_total(checkpoint: Path, output: Path) -> None:
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))

    for look in (
        lambda: verify(output, progress=progress),
        lambda: verify(output, against=checkpoint, progress=progress),
        lambda: verify_source(checkpoint, progress=progress),
    ):
        seen.clear()
        look()
        assert seen[-1][0] == pytest.approx(seen[-1][1], rel=0.02)


def test_xxh3_without_its_package_is_refused_at_once(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xxhash", None)
    with pytest.raises(MissingPackage, match="xxhash"):
        consolidate(checkpoint, tmp_path / "out", digest="xxh3")
    assert not (tmp_path / "out").exists()


def test_xxh3_without_its_package_is_not_checked(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consolidate(checkpoint, tmp_path / "out", digest="sha256")
    manifest = tmp_path / "out/zeroconsolidate.json"
    manifest.write_text(manifest.read_text().replace('"sha256"', '"xxh3"'))
    monkeypatch.setitem(sys.modules, "xxhash", None)
    found = verify(tmp_path / "out")
    assert found.ok
    assert "model.safetensors: digest not checked: the digest xxh3 needs xxhash" in "\n".join(found.notes)
    assert any(check.endswith("0 digests against the manifest") for check in found.checks)
