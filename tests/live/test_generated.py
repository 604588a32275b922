"""A sample of what tools/generate_cases makes by the thousand: random fine-tunes, converted, loaded and compared."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from command import REPOSITORY, environment
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers", minversion="5")
pytest.importorskip("peft")

from generate_cases import models
from generate_cases.build import build, save_base
from generate_cases.case import Case, draw, pinned
from generate_cases.judge import judge
from generate_cases.known import Known

from zeroconsolidate import consolidate

if TYPE_CHECKING:
    from pathlib import Path

SEED, COUNT = 20, 36


def test_a_number_is_always_the_same_case() -> None:
    assert [draw(SEED, number) for number in range(50)] == [draw(SEED, number) for number in range(50)]
    assert draw(SEED, 1) != draw(SEED + 1, 1)
    assert all(Case.from_json(case.to_json()) == case for case in (draw(SEED, number) for number in range(50)))


def test_every_axis_is_drawn() -> None:
    cases = [draw(SEED, number) for number in range(2000)]
    assert {case.model for case in cases} == set(models.MODELS)
    for axis in ("outer", "inner", "freeze", "stage", "world_size", "dtype", "weights", "config", "exclude_frozen"):
        assert len({getattr(case, axis) for case in cases}) > 1, axis
    assert len({case.adapter["kind"] for case in cases if case.adapter}) > 20


def test_ranks_build_the_same_module(tmp_path: Path) -> None:
    """What one process builds, another must: ranks, and the judge after them."""
    rng = random.Random(0)
    for number in rng.sample(range(1000), 6):
        case = draw(SEED, number)
        save_base(case, tmp_path / str(number))
        first, second = (build(case, tmp_path / str(number)).module.state_dict() for _ in range(2))
        assert first.keys() == second.keys()
        assert [name for name, value in first.items() if torch.is_tensor(value) and not same(value, second[name])] == []


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the command."""
    pytest.importorskip("deepspeed")
    folder = tmp_path_factory.mktemp("generated")
    run("--seed", SEED, "--count", COUNT, "--dir", folder)
    return folder


def run(*arguments: object) -> str:
    command = [sys.executable, "tools/generate_cases/run.py", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode in (0, 1), done.stderr[-3000:]
    return done.stdout


def outcomes(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (results / "results.jsonl").read_text().splitlines()]


@pytest.mark.live
@pytest.mark.heavy
def test_most_are_made_and_many_are_right(results: Path) -> None:
    """Cases that nobody trains, or that all are refused, would find nothing."""
    found = outcomes(results)
    assert {outcome["number"] for outcome in found} == set(range(COUNT))
    verdicts = [outcome["verdict"] for outcome in found]
    assert verdicts.count("not made") <= COUNT // 6
    assert verdicts.count("right") >= len(found) // 4
    assert verdicts.count("crashed") == 0


@pytest.mark.live
@pytest.mark.heavy
def test_none_is_wrong(results: Path) -> None:
    assert [outcome for outcome in outcomes(results) if outcome["verdict"] == "wrong"] == []


@pytest.mark.live
@pytest.mark.heavy
def test_what_is_right_is_well_to_verify(results: Path) -> None:
    assert [o for o in outcomes(results) if o["verdict"] == "right" and not o["verified"]] == []


@pytest.mark.live
@pytest.mark.heavy
def test_done_cases_are_not_done_again(results: Path) -> None:
    before = outcomes(results)
    run("--seed", SEED, "--count", COUNT, "--dir", results)
    assert outcomes(results) == before


@pytest.fixture(scope="module")
def pinned_results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """Number of a pinned case -> what came of it in each way."""
    pytest.importorskip("deepspeed")
    folder = tmp_path_factory.mktemp("pinned")
    run("--pinned", "--dir", folder)
    found: dict[int, list[dict[str, Any]]] = {}
    for outcome in outcomes(folder):
        found.setdefault(outcome["number"], []).append(outcome)
    return found


@pytest.mark.live
@pytest.mark.heavy
@pytest.mark.parametrize("what", pinned())
def test_pinned(what: str, pinned_results: dict[int, list[dict[str, Any]]]) -> None:
    """Right in every way, or refused where that is right."""
    found = pinned_results[pinned()[what].number]
    good = [
        o for o in found if (o["verdict"] == "right" and o["verified"]) or (o["verdict"] == "refused" and o["expected"])
    ]
    assert good == found


FULL: dict[str, Any] = {"number": 0}
ADAPTED = {
    "number": 1,
    "adapter": {"kind": "LORA", "r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", "target_modules": ["q_proj"]},
    "config": "none",
    "stage": 3,
}


@pytest.mark.live
@pytest.mark.heavy
def test_the_judge_finds_planted_errors(tmp_path: Path) -> None:
    """Right outputs, and the same with a value changed, a tensor renamed, one added or one missing."""
    pytest.importorskip("deepspeed")
    run("--case", json.dumps(FULL), "--case", json.dumps(ADAPTED), "--dir", tmp_path)
    for content, options in ((FULL, {}), (ADAPTED, {}), (ADAPTED, {"lora": "merge", "base": "base"})):
        case = Case.from_json(json.dumps(content))
        folder = tmp_path / "kept" / str(case.number)
        options = {key: folder / "base" if value == "base" else value for key, value in options.items()}
        known, out = Known.read(case, folder), tmp_path / f"{case.number}{len(options)}"
        report = consolidate(folder / "ckpt", out, **options)
        assert judge(known, out, report, options) == ""
        path = next(out.glob("*model.safetensors"))
        tensors = load_file(path)
        name = next(name for name in tensors if "q_proj" in name)
        value = tensors[name]
        rest = {key: tensor for key, tensor in tensors.items() if key != name}
        for planted in (
            rest | {name: value + 1e-3},
            rest | {name: value.bfloat16().float()},
            rest | {f"x.{name}": value},
            rest,
            tensors | {"base_model.model.extra.weight": value.clone()},
            rest | {name: value[:-1].clone()},
        ):
            save_file(planted, path, metadata={"format": "pt"})
            assert judge(known, out, report, options), planted.keys() ^ tensors.keys()
