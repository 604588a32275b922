"""A training saves again under the same name while a checkpoint is read: metadata of one save, values of another.

The two saves here have the same names and shapes, and another order of parameters. So values of the second at the
places that the first names are numbers of other tensors, which nothing else would notice.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import synthetic
import torch
from fixtures import FIXTURES
from model_cases import ROOT
from safetensors.torch import load_file, save_file

import zeroconsolidate
from zeroconsolidate import DamagedFile
from zeroconsolidate.adapters import plan_merge
from zeroconsolidate.opening import substitutes, unsaved
from zeroconsolidate.zero_to_fp32 import convert_zero_checkpoint_to_state_dict, get_fp32_state_dict_from_zero_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

CHANGED = "the file was changed while"
STAGE = 3


@pytest.fixture
def saves(tmp_path: Path) -> tuple[Path, Callable[[], None]]:
    """A checkpoint, and what saves another into it, in place, as `torch.save` does."""
    values = synthetic.values_of(synthetic.shapes_of(0.3))
    synthetic.write(tmp_path / "run", values, stage=STAGE, ranks=2)
    other = OrderedDict(reversed(synthetic.values_of(synthetic.shapes_of(0.3), seed=8).items()))
    synthetic.write(tmp_path / "later", other, stage=STAGE, ranks=2)
    for file in (tmp_path / "run/global_step5").iterdir():
        os.utime(file, (1_000_000_000, 1_000_000_000))  # some time ago

    def save_again() -> None:
        for file in sorted((tmp_path / "later/global_step5").iterdir()):
            shutil.copyfile(file, tmp_path / "run/global_step5" / file.name)

    return tmp_path / "run", save_again


def when(word: str, do: Callable[[], None]) -> Callable[[str], None]:
    """A `status` that does something when a conversion says this word."""
    return lambda said: do() if said == word else None


@pytest.mark.parametrize("word", ["checking names", "comparing values", "copying"])
@pytest.mark.parametrize("options", [{}, {"dtype": "bf16", "workers": 2}])
def test_a_conversion_notices(
    saves: tuple[Path, Callable[[], None]], tmp_path: Path, word: str, options: dict[str, object]
) -> None:
    run, save_again = saves
    with pytest.raises(DamagedFile, match=CHANGED):
        zeroconsolidate.consolidate(run, tmp_path / "out", status=when(word, save_again), **options)
    assert not (tmp_path / "out/model.safetensors").exists()


def test_a_mean_notices(saves: tuple[Path, Callable[[], None]], tmp_path: Path) -> None:
    """Also of a checkpoint that is not the last."""
    run, save_again = saves
    synthetic.write(tmp_path / "last", synthetic.values_of(synthetic.shapes_of(0.3), seed=9), stage=STAGE, ranks=2)
    with pytest.raises(DamagedFile, match=CHANGED):
        zeroconsolidate.consolidate(
            [run, tmp_path / "last"], tmp_path / "out", average="uniform", status=when("checking names", save_again)
        )
    assert not (tmp_path / "out").exists()


def test_a_conversion_by_workers_notices(saves: tuple[Path, Callable[[], None]], tmp_path: Path) -> None:
    """Who see the files for the first time."""
    run, save_again = saves
    with ThreadPoolExecutor(1) as workers, pytest.raises(DamagedFile, match=CHANGED):
        zeroconsolidate.consolidate(run, tmp_path / "out", executor=workers, status=when("checking names", save_again))
    assert not (tmp_path / "out/model.safetensors").exists()


def test_a_part_notices(saves: tuple[Path, Callable[[], None]], tmp_path: Path) -> None:
    run, save_again = saves
    with pytest.raises(DamagedFile, match=CHANGED):
        zeroconsolidate.consolidate_part(run, tmp_path / "out", "1/2", status=when("checking names", save_again))


def test_a_universal_checkpoint_is_not_made(saves: tuple[Path, Callable[[], None]], tmp_path: Path) -> None:
    run, save_again = saves
    with pytest.raises(DamagedFile, match=CHANGED):
        zeroconsolidate.universal(run, tmp_path / "out", status=when("comparing values", save_again))
    assert not list((tmp_path / "out").glob("*/zero"))


def test_an_open_checkpoint_notices(saves: tuple[Path, Callable[[], None]]) -> None:
    """Before a file is opened for values, and when it is open."""
    run, save_again = saves
    checkpoint = zeroconsolidate.open_checkpoint(run)
    first, *others = checkpoint
    before = checkpoint[first].load()
    save_again()
    for name in (first, *others):
        with pytest.raises(DamagedFile, match=CHANGED):
            checkpoint[name].load()
    checkpoint = zeroconsolidate.open_checkpoint(run)
    assert not torch.equal(checkpoint[first].load(), before)
    runs = checkpoint["embed.weight"]
    for file in (run / "global_step5").iterdir():
        os.utime(file)
    with pytest.raises(DamagedFile, match=CHANGED):
        runs[::2, 1]  # runs that lie apart


def test_a_module_is_not_loaded(saves: tuple[Path, Callable[[], None]], monkeypatch: pytest.MonkeyPatch) -> None:
    from zeroconsolidate.loading import into

    run, save_again = saves
    true = into.put

    def put(*arguments: object, **keywords: object) -> None:
        save_again()
        true(*arguments, **keywords)

    monkeypatch.setattr(into, "put", put)
    model = torch.nn.ModuleDict(
        {"embed": torch.nn.Embedding(*zeroconsolidate.open_checkpoint(run)["embed.weight"].shape)}
    )
    with pytest.raises(DamagedFile, match=CHANGED):
        zeroconsolidate.load_into(model, run, strict=False)


@pytest.mark.parametrize("safe", [True, False])
def test_deepspeeds_functions_notice(
    saves: tuple[Path, Callable[[], None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, safe: bool
) -> None:
    from zeroconsolidate import zero_to_fp32

    run, save_again = saves
    lazy = get_fp32_state_dict_from_zero_checkpoint(run, lazy_mode=True)
    true = zero_to_fp32.plan_files

    def planned(*arguments: object, **keywords: object) -> object:
        save_again()
        return true(*arguments, **keywords)

    monkeypatch.setattr(zero_to_fp32, "plan_files", planned)
    with pytest.raises(DamagedFile, match=CHANGED):
        convert_zero_checkpoint_to_state_dict(run, tmp_path / "out", safe_serialization=safe)
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(DamagedFile, match=CHANGED):
        next(iter(lazy.values())).contiguous()


def changed_in_place(model: Path) -> None:
    """As a program does that writes other weights over a model: of the same names and shapes, in another order."""
    path = model / "model.safetensors"
    if not path.exists():
        for file in model.glob("*/*.pt"):
            os.utime(file)
        return
    tensors = load_file(path)
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    save_file(dict(reversed(tensors.items())), path, header.get("__metadata__"))
    os.utime(path)


def after(patch: pytest.MonkeyPatch, module: ModuleType, name: str, do: Callable[[], None]) -> list[int]:
    """Have a function of a module followed by something, each time."""
    true, calls = getattr(module, name), list[int]()

    def followed(*arguments: Any, **keywords: Any) -> Any:
        found = true(*arguments, **keywords)
        do()
        calls.append(1)
        return found

    patch.setattr(module, name, followed)
    return calls


def test_a_base_that_changes_after_its_headers_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before there is a plan, which knows what files it is made from."""
    base = shutil.copytree(ROOT / "_bases/llama", tmp_path / "base")
    calls = after(monkeypatch, plan_merge, "read_weights", lambda: changed_in_place(base))
    with pytest.raises(DamagedFile, match=r"model\.safetensors"):
        zeroconsolidate.consolidate(ROOT / "lora_z3/checkpoint", tmp_path / "out", lora="merge", base=base)
    assert calls
    assert not (tmp_path / "out").exists()


def test_a_base_that_has_the_frozen_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zeroconsolidate.consolidate(FIXTURES / "z3_frozen/checkpoint", tmp_path / "base", names="stored")
    calls = after(monkeypatch, unsaved, "read_weights", lambda: changed_in_place(tmp_path / "base"))
    with pytest.raises(DamagedFile, match=r"model\.safetensors"):
        zeroconsolidate.consolidate(
            FIXTURES / "z3_exclude_frozen/checkpoint", tmp_path / "out", base=tmp_path / "base", names="stored"
        )
    assert calls
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("universal", [False, True])
@pytest.mark.parametrize("fill", ["model", "checkpoint"])
def test_what_lost_values_are_filled_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fill: str, universal: bool
) -> None:
    whole = FIXTURES / "z3_w3/checkpoint"
    shutil.copytree(whole, tmp_path / "in")
    next((tmp_path / "in").glob("*/*pp_rank_1_*optim_states.pt")).unlink()
    if fill == "model":
        zeroconsolidate.consolidate(whole, tmp_path / "fill", names="stored")
    else:
        shutil.copytree(whole, tmp_path / "fill")
    calls = after(monkeypatch, substitutes, "filler", lambda: changed_in_place(tmp_path / "fill"))
    verb = zeroconsolidate.universal if universal else zeroconsolidate.consolidate
    with pytest.raises(DamagedFile, match="fill/"):
        verb(tmp_path / "in", tmp_path / "out", rescue=True, fill=tmp_path / "fill")
    assert calls
    assert not (tmp_path / "out").exists()


def test_what_did_not_change_is_converted(saves: tuple[Path, Callable[[], None]], tmp_path: Path) -> None:
    """Other files beside it may."""
    run, _ = saves

    def beside() -> None:
        (run / "trainer_state.json").write_text(json.dumps({"global_step": 5}))

    zeroconsolidate.consolidate(run, tmp_path / "out", status=when("copying", beside))
    assert (tmp_path / "out/model.safetensors").is_file()
