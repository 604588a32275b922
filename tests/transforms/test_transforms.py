"""A transformation of one's own is planned, written, recorded and verified like any, without touching the package."""

from __future__ import annotations

import contextlib
import io
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from command import REPOSITORY
from fixtures import FIXTURES
from folders import contents
from safetensors.torch import load_file
from scaled import Scaled

import zeroconsolidate
from zeroconsolidate import BadOption, PlanBroken, Transform, consolidate, verify
from zeroconsolidate.dtypes import DType
from zeroconsolidate.plan.computed import Computed
from zeroconsolidate.plan.patched import Zeros
from zeroconsolidate.plan.sources import Source
from zeroconsolidate.run import execute as executor
from zeroconsolidate.write import part

if TYPE_CHECKING:
    from pathlib import Path

    from zeroconsolidate.transforms.transform import Model

CASE = FIXTURES / "models" / "llm_untied_z3"
SOURCE = CASE / "checkpoint"
EMBEDDING = "model.embed_tokens.weight"


class Scale(Transform):
    def __init__(self, factor: float, kind: type[Scaled] = Scaled) -> None:
        self.factor, self.kind = factor, kind

    @property
    def record(self) -> dict[str, object]:
        return {"scale": self.factor}

    def plan(self, model: Model) -> Model:
        if EMBEDDING not in model.tensors:
            raise BadOption(f"the model has no {EMBEDDING}")
        source = model.tensors[EMBEDDING]
        scaled = replace(source, recipe=self.kind(base=source.recipe, factor=self.factor))
        return model.changed(
            {**model.tensors, EMBEDDING: scaled}, fields={"embedding_multiplier": self.factor}, notes=("scaled",)
        )


class Recorded(Transform):
    """Does what it is told."""

    def __init__(self, record: object, change: Any = lambda model: model) -> None:
        self._record, self._change = record, change

    @property
    def record(self) -> Any:
        return self._record

    def plan(self, model: Model) -> Model:
        return self._change(model)


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, torch.Tensor]:
    consolidate(SOURCE, tmp_path / "plain")
    return load_file(tmp_path / "plain" / "model.safetensors")


def test_steps_are_taken_in_order_and_the_cast_comes_last(plain: dict[str, torch.Tensor], tmp_path: Path):
    steps = [Scale(3.0), Scale(0.1)]
    report = consolidate(SOURCE, tmp_path / "out", transforms=steps, dtype="bf16")
    found = load_file(tmp_path / "out" / "model.safetensors")
    truth = plain | {EMBEDDING: plain[EMBEDDING] * np.float32(3.0) * np.float32(0.1)}
    assert found.keys() == truth.keys()
    assert all(torch.equal(found[name], truth[name].bfloat16()) for name in found)
    assert not torch.equal(found[EMBEDDING], plain[EMBEDDING].bfloat16())
    assert report.notes[:2] == ("scaled", "scaled")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["embedding_multiplier"] == 0.1
    manifest = json.loads((tmp_path / "out" / "zeroconsolidate.json").read_text())
    assert manifest["options"]["transforms"] == [{"scale": 3.0}, {"scale": 0.1}]


def test_one_alone_is_no_sequence(plain: dict[str, torch.Tensor], tmp_path: Path):
    consolidate(SOURCE, tmp_path / "out", transforms=Scale(2.0))
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(found[EMBEDDING], plain[EMBEDDING] * 2)


def test_it_is_verified_with_the_same_ones_only(tmp_path: Path):
    consolidate(SOURCE, tmp_path / "out", transforms=[Scale(3.0)])
    assert verify(tmp_path / "out").ok
    assert verify(tmp_path / "out", against=SOURCE, transforms=[Scale(3.0)]).ok
    for others in ([], [Scale(2.0)], [Scale(3.0), Scale(3.0)]):
        with pytest.raises(BadOption, match="the output was written with other transformations"):
            verify(tmp_path / "out", against=SOURCE, transforms=others)


@pytest.mark.parametrize("workers", [1, 2])
def test_it_is_continued_with_the_same_ones_only(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(part, "SYNC_BYTES", 512)
    monkeypatch.setattr(executor, "BLOCK_BYTES", 256)
    monkeypatch.setattr(executor, "PIECE_BYTES", 512)

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    consolidate(SOURCE, tmp_path / "straight", transforms=[Scale(3.0)])
    with pytest.raises(KeyboardInterrupt):
        consolidate(SOURCE, tmp_path / "out", transforms=[Scale(3.0)], progress=stop, workers=workers)
    for others in ([], [Scale(2.0)]):
        with pytest.raises(BadOption, match="other options"):
            consolidate(SOURCE, tmp_path / "out", transforms=others)
    report = consolidate(SOURCE, tmp_path / "out", transforms=[Scale(3.0)], workers=workers)
    assert report.resumed_bytes > 0
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_after_a_merge_and_after_a_mean(tmp_path: Path):
    lora = [FIXTURES / "models" / name / "checkpoint" for name in ("lora_z2", "lora_z3")]
    options: dict[str, Any] = {"lora": "merge", "base": FIXTURES / "models" / "_bases" / "llama", "average": "uniform"}
    consolidate(lora, tmp_path / "plain", **options)
    report = consolidate(lora, tmp_path / "scaled", **options, transforms=[Scale(4.0)])
    found, plain = (load_file(tmp_path / name / "model.safetensors") for name in ("scaled", "plain"))
    assert torch.equal(found.pop(EMBEDDING), plain.pop(EMBEDDING) * 4)
    assert all(torch.equal(found[name], plain[name]) for name in plain)
    assert any("not recomputed" in text for text in report.not_checked)


def test_a_tensor_may_keep_the_dtype_it_was_given(tmp_path: Path):
    def added(model: Model) -> Model:
        def zeros(name: str, dtype: DType, *, keeps: bool) -> Source:
            return Source(name=name, shape=(2,), recipe=Zeros(2, dtype), role="trainable", keeps_dtype=keeps)

        more = {name: zeros(name, DType.F32, keeps=name == "kept") for name in ("kept", "cast")}
        return model.changed({**model.tensors, **more})

    consolidate(SOURCE, tmp_path / "out", transforms=[Recorded({}, added)], dtype="bf16", allow_missing=True)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert (found["kept"].dtype, found["cast"].dtype) == (torch.float32, torch.bfloat16)


def test_what_a_loader_would_not_find_is_refused_before_a_byte_is_written(tmp_path: Path):
    def dropped(model: Model) -> Model:
        return model.changed({name: source for name, source in model.tensors.items() if name != EMBEDDING})

    with pytest.raises(zeroconsolidate.WrongNames, match=EMBEDDING):
        consolidate(SOURCE, tmp_path / "out", transforms=[Recorded({}, dropped)])
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_a_shape_that_is_not_that_of_the_elements(tmp_path: Path):
    def wrong(model: Model) -> Model:
        return model.changed({**model.tensors, EMBEDDING: replace(model.tensors[EMBEDDING], shape=(3, 5))})

    with pytest.raises(PlanBroken, match="the recipe does not fit the shape") as caught:
        consolidate(SOURCE, tmp_path / "out", transforms=[Recorded({}, wrong)])
    assert caught.value.address[-1] == EMBEDDING
    assert not (tmp_path / "out").exists()


def test_what_nothing_can_read(tmp_path: Path):
    class Alone(Computed):
        """Of no class that has a reader."""

        base = Zeros(2, DType.F32)
        dtype, input_bytes, memory_bytes = DType.F32, 0, 0

    def unread(model: Model) -> Model:
        source = Source(name="x", shape=(2,), recipe=Alone(), role="trainable")
        return model.changed({**model.tensors, "x": source})

    with pytest.raises(BadOption, match="nothing can read Alone"):
        consolidate(SOURCE, tmp_path / "out", transforms=[Recorded({}, unread)])
    assert not (tmp_path / "out").exists()


def test_what_is_no_transformation(tmp_path: Path):
    class Half:
        record: dict[str, object] = {}  # noqa: RUF012

    for given, complaint in [
        (3, "got int"),
        (["scale"], "got str"),
        ([Half()], "got Half"),
        ([Recorded({"x": object()})], "JSON cannot hold the record"),
        ([Recorded(3)], "JSON cannot hold the record"),
    ]:
        with pytest.raises(BadOption, match=complaint):
            consolidate(SOURCE, tmp_path / "out", transforms=given)
    assert not (tmp_path / "out").exists()


def test_what_it_cannot_be_used_with(tmp_path: Path):
    with pytest.raises(BadOption, match=r"optimizer.* cannot be used with transformations"):
        consolidate(SOURCE, tmp_path / "out", transforms=[Scale(2.0)], optimizer=True)
    with pytest.raises(BadOption, match="transformations are for models, not for adapters"):
        consolidate(FIXTURES / "models/lora_z3/checkpoint", tmp_path / "out", transforms=[Scale(2.0)])
    with pytest.raises(BadOption, match=r"there is no config.json to set x in"):
        consolidate(
            FIXTURES / "z3_bf16/checkpoint",
            tmp_path / "out",
            names="stored",
            transforms=[Recorded({}, lambda model: model.changed(model.tensors, fields={"x": 1}))],
        )
    with pytest.raises(BadOption, match=r"the model has no model.embed_tokens.weight"):
        consolidate(FIXTURES / "z3_bf16/checkpoint", tmp_path / "out", names="stored", transforms=[Scale(2.0)])
    assert not (tmp_path / "out").exists()


PAGE = REPOSITORY / "docs/transformations.md"


def test_the_page_plugs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: dict[str, torch.Tensor]):
    """The example of the docs, as it stands, and what its comments say."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "tests").symlink_to(REPOSITORY / "tests")
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, str(PAGE), "exec"), {"__name__": __name__})
    assert printed.getvalue().splitlines() == re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
    found = load_file(tmp_path / "scaled" / "model.safetensors")
    assert torch.equal(found.pop(EMBEDDING), plain.pop(EMBEDDING) * 0.5)
    assert all(torch.equal(found[name], plain[name]) for name in plain)
