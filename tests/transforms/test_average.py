"""The mean of several checkpoints is torch's in float64, bit for bit: of all layouts, with threads, after kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import run_directories
import synthetic
import torch
import zero_model
from command import REPOSITORY
from fixtures import FIXTURES
from folders import contents
from interrupting import Interrupt
from safetensors.torch import load_file

from zeroconsolidate import consolidate, estimate, inspect, inspect_run, verify
from zeroconsolidate.errors import BadOption, Disagreement, NotACheckpoint, WitnessMismatch
from zeroconsolidate.options.averages import weights_of
from zeroconsolidate.run import execute as executor
from zeroconsolidate.transforms import averaged as planned
from zeroconsolidate.write import part

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BASES = FIXTURES / "models" / "_bases"


def provenance(case: Path) -> dict[str, Any]:
    return json.loads((case / "provenance.json").read_text())


@cache
def truth_of(case: Path) -> dict[str, torch.Tensor]:
    return load_file(case / "expected.safetensors")


def mean(
    several: Sequence[dict[str, torch.Tensor]], weights: Sequence[float], buffers: set[str]
) -> dict[str, torch.Tensor]:
    """The oracle: products and sums of float64, in order, one quotient, rounded once."""
    found = {}
    for name, last in several[-1].items():
        if name in buffers or not last.is_floating_point():
            found[name] = last
            continue
        total = several[0][name].double() * weights[0]
        for each, weight in zip(several[1:], weights[1:], strict=True):
            total = total + each[name].double() * weight
        found[name] = (total / sum(weights)).float()
    return found


def assert_same(written: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> None:
    assert written.keys() == truth.keys()
    for name, tensor in written.items():
        assert tensor.dtype == truth[name].dtype, name
        same = (tensor == truth[name]) | (tensor.isnan() & truth[name].isnan())
        assert bool(same.all()), name


# --- every layout


_NO_PAIR = (
    "adafactor_z3", "adamw_8bit", "writer_mock", "universal_pp2", "universal_megatron", "flagembedding", "trainer",
)  # fmt: skip
"""Those that trained to NaN, that are refused without options, that are empty, or whose stored names are not those of
`expected`."""


def _pairs() -> list[tuple[Path, Path]]:
    """Fixtures of one model in different layouts, or of one layout at different values, next to each other."""
    alike: dict[str, list[Path]] = {}
    for folder in (FIXTURES, FIXTURES / "layouts"):
        for file in sorted(folder.glob("*/expected.safetensors")):
            case = file.parent
            facts = provenance(case)
            if facts.get("replicas_differ") or case.name.startswith(_NO_PAIR):
                continue
            shapes = sorted((name, tuple(tensor.shape)) for name, tensor in truth_of(case).items())
            ties = [(each.name, each.tied_to) for each in inspect(case / "checkpoint").tensors if each.role == "tie"]
            key = repr((shapes, ties, sorted(facts["buffers"])))
            alike.setdefault(key, []).append(case)
    return [pair for cases in alike.values() if len(cases) > 1 for pair in batched_by_two(cases)]


def batched_by_two(cases: list[Path]) -> list[tuple[Path, Path]]:
    """Each in one pair; of an odd number, the first in two."""
    even = cases if len(cases) % 2 == 0 else [*cases, cases[0]]
    return list(zip(even[::2], even[1::2], strict=True))


PAIRS = _pairs()
LAYOUTS = {case for pair in PAIRS for case in pair}


def test_the_pairs_are_of_all_stages_and_axes():
    facts = [provenance(case) for case in LAYOUTS]
    assert {fact.get("zero_stage", fact.get("stage")) for fact in facts} == {0, 1, 2, 3}
    for axis in ("tp", "pp", "ep"):
        assert any(fact.get("parallel", {}).get(axis, 1) > 1 for fact in facts), axis
    assert len(LAYOUTS) > 100


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=lambda case: case.name)
def test_any_two_layouts_have_torchs_mean(one: Path, other: Path, tmp_path: Path):
    sources = [one / "checkpoint", other / "checkpoint"]
    consolidate(sources, tmp_path / "out", average="weights:0.3,0.9", names="stored")
    truth = mean([truth_of(one), truth_of(other)], [0.3, 0.9], set(provenance(one)["buffers"]))
    assert_same(load_file(tmp_path / "out" / "model.safetensors"), truth)
    assert verify(tmp_path / "out", against=sources).ok


ALONE = [
    case
    for folder in (FIXTURES, FIXTURES / "layouts")
    for case in sorted(file.parent for file in folder.glob("*/expected.safetensors"))
    if case not in LAYOUTS and not case.name.startswith(("adamw_8bit", "writer_mock"))
]


@pytest.mark.parametrize("case", ALONE, ids=lambda case: case.name)
def test_a_layout_without_a_counterpart_is_averaged_with_itself(case: Path, tmp_path: Path):
    """What one conversion makes of it is compared with the engine's values by the tests of layouts."""
    options: dict[str, Any] = {"names": "stored"}
    if provenance(case).get("replicas_differ"):
        options["replicas"] = "first"
    consolidate(case / "checkpoint", tmp_path / "one", **options)
    consolidate([case / "checkpoint"] * 2, tmp_path / "out", average="weights:0.3,0.9", **options)
    one = written(tmp_path / "one")
    assert_same(written(tmp_path / "out"), mean([one, one], [0.3, 0.9], set()))
    assert verify(tmp_path / "out", against=[case / "checkpoint"] * 2).ok


# --- what is chosen, and what each counts for


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Five saves, the newest of which is not complete."""
    for step in (2, 9, 10, 11, 30):
        run_directories.save(tmp_path / "run", step, stage=3 if step % 2 else 2)
    next((tmp_path / "run" / "checkpoint-30" / "global_step30").glob("*pp_rank_1*optim*")).unlink()
    return tmp_path / "run"


def written(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def trained_mean(steps: Sequence[int], weights: Sequence[float]) -> dict[str, torch.Tensor]:
    runs = [run_directories.trained(step, 3 if step % 2 else 2) for step in steps]
    return mean([each.truth for each in runs], weights, set(runs[-1].buffers))


def test_the_newest_complete_saves_of_a_run(run: Path, tmp_path: Path):
    report = consolidate(run, tmp_path / "out", average="uniform", last=3, names="stored")
    assert_same(written(tmp_path / "out"), trained_mean([9, 10, 11], [1, 1, 1]))
    assert report.step == 11
    assert report.notes[0] == "mean of 3 checkpoints (uniform): global_step9, global_step10, global_step11"
    manifest = json.loads((tmp_path / "out" / "zeroconsolidate.json").read_text())
    assert [each["step"] for each in manifest["averaged"]] == [9, 10, 11]
    assert verify(tmp_path / "out", against=run).ok
    # Another save that is completed later does not change what was averaged.
    run_directories.save(run, 31, stage=2)
    assert verify(tmp_path / "out", against=run).ok
    shutil.rmtree(run / "checkpoint-9")
    shutil.copytree(run / "checkpoint-2", run / "checkpoint-9")
    assert not verify(tmp_path / "out", against=[run / f"checkpoint-{n}" for n in (2, 10, 11)]).ok


def test_a_folder_of_tags_is_a_run_too(tmp_path: Path):
    for step in (4, 7):
        zero_model.save(run_directories.trained(step), tmp_path / "tags", f"global_step{step}")
    consolidate(tmp_path / "tags", tmp_path / "out", average="uniform", last=2, names="stored")
    runs = [run_directories.trained(step) for step in (4, 7)]
    assert_same(written(tmp_path / "out"), mean([each.truth for each in runs], [1, 1], set(runs[-1].buffers)))
    assert verify(tmp_path / "out", against=tmp_path / "tags").ok


def test_a_moving_average_in_the_order_of_the_paths(run: Path, tmp_path: Path):
    """As the recurrence has it, within the rounding of float64."""
    steps = (11, 2, 10)
    consolidate([run / f"checkpoint-{n}" for n in steps], tmp_path / "out", average="ema:0.9", names="stored")
    found = written(tmp_path / "out")
    runs = [run_directories.trained(step, 3 if step % 2 else 2) for step in steps]
    for name in runs[-1].groups[0]:
        moving = runs[0].truth[name].double()
        for each in runs[1:]:
            moving = 0.9 * moving + (1 - 0.9) * each.truth[name].double()
        torch.testing.assert_close(found[name].double(), moving, rtol=2**-23, atol=0)


def test_what_each_counts_for():
    assert weights_of("uniform", 4) == (1.0,) * 4
    assert sum(weights_of("ema:0.99", 50)) == pytest.approx(1)
    assert weights_of("weights:2,0.5", 2) == (2.0, 0.5)


def test_buffers_and_whole_numbers_are_the_last_ones(tmp_path: Path):
    runs = []
    for step in (1, 5):
        made = run_directories.trained(step)
        made.buffers = {"count": torch.tensor([step]), "mean": torch.full((3,), float(step))}
        made.order = None
        runs.append(made)
        zero_model.save(made, tmp_path / str(step), f"global_step{step}")
    consolidate([tmp_path / "1", tmp_path / "5"], tmp_path / "out", average="uniform", names="stored")
    found = written(tmp_path / "out")
    assert found["count"].tolist() == [5]
    assert found["mean"].tolist() == [5.0] * 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("number", [0, 2])
def test_a_value_that_is_not_finite_in_one_step_only(value: float, number: int, tmp_path: Path):
    """It would be the mean, whatever the other steps have."""
    sources = []
    for step in (1, 2, 3):
        made = run_directories.trained(step, step)
        if step == number + 1:
            made.groups[0]["layers.0.weight"][1, 1] = value
        sources.append(zero_model.save(made, tmp_path / str(step), f"global_step{step}"))
    with pytest.raises(Disagreement, match=f"1 value is not finite in checkpoint {number + 1} of 3") as caught:
        consolidate(sources, tmp_path / "out", average="uniform", names="stored")
    assert f"{number + 1}/global_step{number + 1}" in str(caught.value.address)
    assert "layers.0.weight" in str(caught.value.address)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    del sources[number]
    consolidate(sources, tmp_path / "out", average="uniform", names="stored", restart=True)


def test_what_is_not_finite_in_every_step_stays_so(tmp_path: Path):
    sources = []
    for step in (1, 2):
        made = run_directories.trained(step)
        made.groups[0]["layers.0.weight"][0] = torch.tensor([-float("inf"), float("inf"), float("nan")])
        sources.append(zero_model.save(made, tmp_path / str(step), f"global_step{step}"))
    consolidate(sources, tmp_path / "out", average="uniform", names="stored")
    first = written(tmp_path / "out")["layers.0.weight"][0]
    assert torch.equal(first.nan_to_num(7, 8, 9), torch.tensor([9.0, 8, 7]))


def test_it_is_cast_after_it_was_rounded_to_float32(run: Path, tmp_path: Path):
    sources = [run / "checkpoint-2", run / "checkpoint-9"]
    consolidate(sources, tmp_path / "out", average="uniform", dtype="bf16", names="stored")
    buffers = run_directories.trained(9, 3).buffers
    truth = trained_mean([2, 9], [1, 1])
    assert_same(written(tmp_path / "out"), {n: t if n in buffers else t.bfloat16() for n, t in truth.items()})


# --- threads, blocks, interruptions


@pytest.mark.parametrize("block", [planned.BLOCK_NUMEL, 7])
def test_neither_threads_nor_blocks_change_a_bit(
    block: int, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sources = [run / f"checkpoint-{n}" for n in (2, 9, 10)]
    consolidate(sources, tmp_path / "whole", average="ema:0.7", workers=1)
    monkeypatch.setattr(executor, "BLOCK_BYTES", 256)
    monkeypatch.setattr(executor, "PIECE_BYTES", 512)
    monkeypatch.setattr(planned, "BLOCK_NUMEL", block)
    for workers in (1, 2):
        consolidate(sources, tmp_path / str(workers), average="ema:0.7", workers=workers)
        assert contents(tmp_path / str(workers)) == contents(tmp_path / "whole")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two steps of 25 MB each."""
    sources = []
    for step in (1, 2):
        values = {n: v + step for n, v in synthetic.values_of(synthetic.shapes_of(25)).items()}
        root = tmp_path_factory.mktemp("large") / f"checkpoint-{step}"
        synthetic.write(root, values, stage=step + 1, ranks=3)
        sources.append(root)
    return sources


@pytest.mark.parametrize("again", [[1, 0], [0, 1, 1], [0, 0, 1, 1, 1]])
def test_an_interrupted_one_is_not_continued_with_the_same_checkpoints_in_another_way(
    again: list[int], large: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Neither the options nor the files that are read differ."""
    monkeypatch.setattr(part, "SYNC_BYTES", 1 << 20)
    with pytest.raises(KeyboardInterrupt):
        consolidate(large, tmp_path / "out", average="ema:0.7", names="stored", progress=Interrupt(12 << 20))
    with pytest.raises(BadOption, match="an interrupted conversion with other options or input"):
        consolidate([large[n] for n in again], tmp_path / "out", average="ema:0.7", names="stored")
    consolidate(large, tmp_path / "out", average="ema:0.7", names="stored")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_one_is_continued(workers: int, large: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(part, "SYNC_BYTES", 1 << 20)
    options: dict[str, Any] = {"average": "weights:0.2,0.8", "names": "stored"}
    consolidate(large, tmp_path / "straight", **options)
    out = tmp_path / "out"
    program = (
        "import os, signal, sys, zeroconsolidate\n"
        "from zeroconsolidate.write import part\n"
        "part.SYNC_BYTES = 1 << 20\n"
        "def stop(done, total):\n"
        "    if done > total // 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"zeroconsolidate.consolidate(sys.argv[1:3], sys.argv[3], progress=stop, workers={workers}, **{options!r})\n"
    )
    command = [sys.executable, "-c", program, *map(str, large), str(out)]
    killed = subprocess.run(command, cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, check=False)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(BadOption, match="other options"):
        consolidate(large, out, average="uniform", names="stored")
    with pytest.raises(
        BadOption, match=r"the tensors of model\.safetensors are made of others, or of the same in anoth"
    ):
        consolidate(large[::-1], out, **options)
    report = consolidate(large, out, workers=workers, **options)
    assert report.resumed_bytes > 0
    assert contents(out) == contents(tmp_path / "straight")


def test_memory_is_that_of_blocks(large: list[Path]):
    assert estimate(large, average="uniform", names="stored", workers=1).peak_memory_bytes < 12 << 20


# --- adapters


LORA = [FIXTURES / "models" / name / "checkpoint" for name in ("lora_z2", "lora_z3")]


ADAPTED = [
    "dora", "llm_embedder_lora", "llm_reranker_lora", "lora", "lora_bias", "lora_head", "lora_patterns", "lora_tokens",
    "mixtral_lora", "mixtral_lora_experts", "qwen3_moe_lora_experts",
]  # fmt: skip
"""With modules that were trained in full (`modules_to_save`), rows of a vocabulary, stacks of experts."""


def of_both_stages(kind: str) -> tuple[list[Path], Path]:
    """(checkpoints, the original model)."""
    cases = [FIXTURES / "models" / f"{kind}_{stage}" for stage in ("z2", "z3")]
    return [case / "checkpoint" for case in cases], BASES / provenance(cases[0])["case"]["base"]


@pytest.mark.parametrize("kind", ADAPTED)
def test_adapters_are_averaged_factor_by_factor(kind: str, tmp_path: Path):
    sources, _ = of_both_stages(kind)
    report = consolidate(sources, tmp_path / "mean", average="weights:1,3")
    assert any("the mean of A and the mean of B were taken" in note for note in report.notes)
    several = []
    for number, source in enumerate(sources):
        consolidate(source, tmp_path / str(number))
        several.append(load_file(tmp_path / str(number) / "adapter_model.safetensors"))
    assert_same(load_file(tmp_path / "mean" / "adapter_model.safetensors"), mean(several, [1, 3], set()))
    assert any(not torch.equal(several[0][name], several[1][name]) for name in several[0])
    assert verify(tmp_path / "mean", against=sources).ok


@pytest.mark.parametrize(("kind", "dtype"), [*((kind, "fp32") for kind in ADAPTED), ("lora", "bf16")])
def test_or_the_models_into_which_they_are_merged(kind: str, dtype: str, tmp_path: Path):
    sources, base = of_both_stages(kind)
    options: dict[str, Any] = {"lora": "merge", "base": base, "dtype": dtype}
    report = consolidate(sources, tmp_path / "mean", average="uniform", **options)
    assert "adapters were merged first: the mean is that of the merged weights" in report.notes
    assert "merged values: not recomputed of a mean" in report.not_checked
    several = []
    for number, source in enumerate(sources):
        consolidate(source, tmp_path / str(number), **options)
        several.append(written(tmp_path / str(number)))
    truth = mean(several, [1, 1], set())
    assert_same(written(tmp_path / "mean"), {name: t.to(several[0][name].dtype) for name, t in truth.items()})
    assert any(not torch.equal(several[0][name], several[1][name]) for name in several[0])
    assert verify(tmp_path / "mean", against=sources, base=base).ok


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_module_that_was_trained_in_full_is_the_mean_of_both(dtype: torch.dtype, tmp_path: Path):
    """The head of `modules_to_save`, as the engines had it in float32: the mean is rounded to bfloat16, not they."""
    sources, base = of_both_stages("lora_head")
    options: dict[str, Any] = {"lora": "merge", "base": base, "dtype": "fp32" if dtype is torch.float32 else "bf16"}
    consolidate(sources, tmp_path / "mean", average="weights:1,2", **options)
    heads = [truth_of(source.parent) for source in sources]
    (name,) = [name for name in heads[0] if "modules_to_save" in name]
    wanted = mean([{"lm_head.weight": each[name].float()} for each in heads], [1, 2], set())
    assert torch.equal(written(tmp_path / "mean")["lm_head.weight"], wanted["lm_head.weight"].to(dtype))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_what_was_trained_around_the_models(dtype: str, tmp_path: Path):
    pytest.importorskip("peft")
    from peft_runs import llama, lora, tune

    tuned, sources, values = tune(llama, default=lora()), [], []
    for step in (1, 2):
        values.append(torch.randn(4, 16, generator=torch.Generator().manual_seed(step)))
        masters = {f"model.{name}": value * step for name, value in tuned.masters.items()}
        made = zero_model.Run(stage=step + 1, world_size=2, groups=[masters | {"projection.weight": values[-1]}])
        sources.append(zero_model.save(made, tmp_path / str(step)))
        tuned.model.peft_config["default"].save_pretrained(sources[-1])
    base = tuned.save_base(tmp_path / "base")
    truth = mean([{"projection.weight": value} for value in values], [1, 1], set())
    truth = {name: tensor.bfloat16() if dtype == "bf16" else tensor for name, tensor in truth.items()}
    for lora_as, folder in (("merge", "trained_beside"), ("adapter", ".")):
        out = tmp_path / lora_as
        consolidate(sources, out, average="uniform", lora=lora_as, base=base, dtype=dtype)
        assert_same(load_file(out / folder / "non_lora_trainables.safetensors"), truth)
        assert verify(out, against=sources, base=base).ok


def test_factors_that_are_used_differently_have_no_mean(tmp_path: Path):
    for number, source in enumerate(LORA):
        shutil.copytree(source, tmp_path / str(number))
    sources = [tmp_path / "0", tmp_path / "1"]
    file = sources[0] / "adapter_config.json"
    config = json.loads(file.read_text())

    def with_settings(**settings: object) -> None:
        file.write_text(json.dumps(config | settings))

    # Not what PEFT writes in another order, or not at all, or what has no part in the weights.
    with_settings(target_modules=config["target_modules"][::-1], lora_dropout=0.5, peft_version="1", use_new=False)
    consolidate(sources, tmp_path / "mean", average="uniform")
    for settings in ({"lora_alpha": 16}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 3}}, {"use_new": "yes"}):
        with_settings(**settings)
        differing = next(iter(settings))
        with pytest.raises(Disagreement, match=f"adapters default are not of one kind: {differing} differs") as caught:
            consolidate(sources, tmp_path / "out", average="uniform")
        assert 'lora="merge"' in str(caught.value.remedies)
        assert not (tmp_path / "out").exists()
    # Merged, each is used as its own configuration says.
    with_settings(lora_alpha=16)
    options: dict[str, Any] = {"lora": "merge", "base": BASES / "llama"}
    consolidate(sources, tmp_path / "merged", average="uniform", **options)
    several = []
    for source in sources:
        consolidate(source, tmp_path / f"merged-{source.name}", **options)
        several.append(written(tmp_path / f"merged-{source.name}"))
    assert_same(written(tmp_path / "merged"), mean(several, [1, 1], set()))


@pytest.mark.parametrize("kind", ["mixtral", "m3", "qwen3_moe", "llm_tied"])
def test_names_layout_and_heads_are_those_of_a_model(kind: str, tmp_path: Path):
    """Experts in the hub's layout, and heads in files of their own."""
    sources = [FIXTURES / "models" / f"{kind}_{stage}" / "checkpoint" for stage in ("z2", "z3")]
    consolidate(sources, tmp_path / "mean", average="uniform")
    several = []
    for number, source in enumerate(sources):
        consolidate(source, tmp_path / str(number))
        several.append(written(tmp_path / str(number)))
    assert_same(written(tmp_path / "mean"), mean(several, [1, 1], set()))
    if kind == "m3":
        heads = [torch.load(tmp_path / name / "colbert_linear.pt") for name in ("0", "1", "mean")]
        assert_same(heads[2], mean(heads[:2], [1, 1], set()))


# --- what is refused


def test_what_is_no_average(run: Path, tmp_path: Path):
    sources = [run / "checkpoint-2", run / "checkpoint-9"]
    for average, complaint in {
        "median": "there is no such average",
        "uniform:1": "there is no such average",
        "ema": "a decay is a number between 0 and 1",
        "ema:1": "a decay is a number between 0 and 1",
        "ema:x": "a decay is a number between 0 and 1",
        "weights:1,0": "weights are numbers above 0",
        "weights:1,nan": "weights are numbers above 0",
        "weights:1e308,1e308": "weights are numbers above 0, from 1e-100 to 1e[+]100",
        "weights:5e-324,5e-324": "weights are numbers above 0",
        "weights:1,2,3": "a weight is needed for each checkpoint",
    }.items():
        with pytest.raises(BadOption, match=complaint):
            consolidate(sources, tmp_path / "out", average=average)
    assert not (tmp_path / "out").exists()


def test_what_does_not_go_with_it(run: Path, tmp_path: Path):
    for options, complaint in [
        ({"average": "uniform", "rescue": True}, "rescue.* is about one checkpoint"),
        ({"average": "uniform", "optimizer": True}, "optimizer.* is about one checkpoint"),
        ({"average": "uniform", "tag": "global_step2"}, "tag.* is about one checkpoint"),
        ({"last": 2}, "last says of how many saves"),
        ({"average": "uniform", "last": 1}, "last takes a number, at least 2"),
        ({"average": "uniform", "last": 9}, "too few complete saves"),
    ]:
        with pytest.raises(BadOption, match=complaint):
            consolidate(run, tmp_path / "out", **options)
    with pytest.raises(BadOption, match="an average is taken of several checkpoints"):
        consolidate(run / "checkpoint-2", tmp_path / "out", average="uniform")
    assert not (tmp_path / "out").exists()


def test_checkpoints_of_different_models(run: Path, tmp_path: Path):
    sources = [run / "checkpoint-2", tmp_path / "other"]
    other = run_directories.trained(3)
    name = "layers.0.weight"
    shape = other.groups[0][name].shape
    other.groups[0][name] = torch.zeros(2, *shape)
    zero_model.save(other, sources[1], "global_step3")
    with pytest.raises(Disagreement, match="a tensor differs in shape") as caught:
        consolidate(sources, tmp_path / "out", average="uniform", names="stored")
    assert name in str(caught.value)
    del other.groups[0][name]
    shutil.rmtree(sources[1])
    zero_model.save(other, sources[1], "global_step3")
    for several in (sources, sources[::-1]):
        with pytest.raises(Disagreement, match=f"{name} is not in .*other"):
            consolidate(several, tmp_path / "out", average="uniform", names="stored")
    assert not (tmp_path / "out").exists()


def test_ties_that_differ(tmp_path: Path):
    sources = [FIXTURES / "layouts" / name / "checkpoint" for name in ("pp2_z1_bf16", "pp2_z1_untied")]
    with pytest.raises(Disagreement, match=r"is tied in one and not in the other|is not in"):
        consolidate(sources, tmp_path / "out", average="uniform", names="stored")


def test_each_is_held_against_its_own_copies(run: Path, tmp_path: Path):
    """A master of the first that is not what its 16-bit copy says."""
    sources = [run / "checkpoint-2", run / "checkpoint-10"]
    file = next((sources[0] / "global_step2").glob("*pp_rank_0*optim*"))
    state = torch.load(file, weights_only=False)
    state["optimizer_state_dict"]["single_partition_of_fp32_groups"][0][0] += 7
    torch.save(state, file)
    with pytest.raises(WitnessMismatch):
        consolidate(sources, tmp_path / "out", average="uniform", names="stored")
    assert not (tmp_path / "out").exists()


# --- which saves of a run


def test_saves_that_are_called_best_and_last_are_themselves(tmp_path: Path):
    """`--checkpoint best` is the one that the trainer took for the best, which is another here."""
    for step in (4, 7, 9):
        run_directories.save(tmp_path / "run", step)
    (tmp_path / "run/checkpoint-7").rename(tmp_path / "run/best")
    (tmp_path / "run/checkpoint-9").rename(tmp_path / "run/last")
    for name in ("checkpoint-4", "best", "last"):
        state = {"best_model_checkpoint": "run/checkpoint-4"}
        (tmp_path / "run" / name / "trainer_state.json").write_text(json.dumps(state))
    consolidate(tmp_path / "run", tmp_path / "out", average="uniform", last=2, names="stored")
    assert_same(written(tmp_path / "out"), mean_of_steps([7, 9]))
    assert verify(tmp_path / "out", against=tmp_path / "run").ok


def mean_of_steps(steps: Sequence[int]) -> dict[str, torch.Tensor]:
    runs = [run_directories.trained(step) for step in steps]
    return mean([each.truth for each in runs], [1] * len(runs), set(runs[-1].buffers))


def test_a_mean_of_saves_with_one_tag_is_verified_against_the_run(tmp_path: Path):
    """accelerate calls the tag of each `pytorch_model`, and Lightning `checkpoint`."""
    for number, step in enumerate((4, 7, 9)):
        zero_model.save(run_directories.trained(step), tmp_path / "run" / f"checkpoint_{number}", "pytorch_model")
    consolidate(tmp_path / "run", tmp_path / "out", average="uniform", last=2, names="stored")
    assert_same(written(tmp_path / "out"), mean_of_steps([7, 9]))
    found = verify(tmp_path / "out", against=tmp_path / "run")
    assert found.ok, found.problems
    shutil.rmtree(tmp_path / "run/checkpoint_1")
    with pytest.raises(
        NotACheckpoint, match="no save with the tag 'pytorch_model' of step 7, which the mean was taken of"
    ):
        verify(tmp_path / "out", against=tmp_path / "run")


def test_a_mean_of_the_last_is_verified_against_their_paths(run: Path, tmp_path: Path):
    consolidate(run, tmp_path / "out", average="uniform", last=3, names="stored")
    assert verify(tmp_path / "out", against=[run / f"checkpoint-{n}" for n in (9, 10, 11)]).ok
    assert not verify(tmp_path / "out", against=[run / f"checkpoint-{n}" for n in (2, 10, 11)]).ok


def test_a_mean_is_the_model_of_none_of_its_saves(run: Path, tmp_path: Path):
    """Whoever looks for the model of a save must not find it: it would be taken for converted."""
    consolidate(run, tmp_path / "run-models/checkpoint-11", average="uniform", last=3, names="stored")
    assert all(save.converted == () for save in inspect_run(run).saves)


@pytest.mark.parametrize("weights", ["1e308,1e308", "1e-320,1e-320", "1e101,1", "1,1e-101"])
def test_weights_beyond_what_sums_hold_are_refused(weights: str, run: Path, tmp_path: Path):
    """Their sum would be infinite, or their products lose digits: a mean of zeros, or of NaN."""
    with pytest.raises(BadOption, match="from 1e-100 to"):
        consolidate(
            [run / "checkpoint-2", run / "checkpoint-9"], tmp_path / "out", average=f"weights:{weights}", names="stored"
        )
    consolidate(
        [run / "checkpoint-2", run / "checkpoint-9"], tmp_path / "out", average="weights:1e100,1e100", names="stored"
    )
    truth = trained_mean([2, 9], [1, 1])
    for name, tensor in written(tmp_path / "out").items():
        torch.testing.assert_close(tensor.double(), truth[name].double(), rtol=2**-23, atol=0)
