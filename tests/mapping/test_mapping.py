"""A checkpoint as a mapping: parts of tensors, other names, the optimizer, what is left of an incomplete one."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from fixtures import FIXTURES, load_fixture
from safetensors.torch import load_file

import zeroconsolidate
from zeroconsolidate.errors import BadOption, MissingFiles, NoSuchTensor, UnsupportedLayout
from zeroconsolidate.mapping.checkpoint import Checkpoint
from zeroconsolidate.opening.open import find, open_files
from zeroconsolidate.opening.opened import of_catalog
from zeroconsolidate.outputs.named import stored_tensors
from zeroconsolidate.run.local import LocalFiles
from zeroconsolidate.run.storage import Readable

if TYPE_CHECKING:
    from pathlib import Path

TIED = FIXTURES / "models/llm_tied_z3"


class Recording(Readable):
    """The file system, and how many bytes were asked for."""

    def __init__(self) -> None:
        self.local, self.nbytes, self.reads = LocalFiles(), 0, 0

    def size_bytes(self, file: str) -> int:
        return self.local.size_bytes(file)

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        self.nbytes += len(buffer)
        self.reads += 1
        self.local.read_into(file, start, buffer)


def recorded(path: Path) -> tuple[Checkpoint, Recording]:
    files = Recording()
    opened = of_catalog(open_files(find(path, None), path))
    info = zeroconsolidate.inspect(path)
    return Checkpoint(opened, stored_tensors(opened), info=info, names="stored", ties={}, files=files), files


@pytest.mark.parametrize("case", ["z1_channels_last", "z2_bf16", "z3_w3", "layouts/megatron_tp2_z1", "z3_scalar"])
def test_parts_are_those_of_the_whole(case: str) -> None:
    keys: list[Any] = [(), ..., -1, slice(1, None, 2), (..., 0), (slice(None), slice(2, 5, 2)), (0, ..., slice(-1, 9))]
    checkpoint = zeroconsolidate.open_checkpoint(FIXTURES / case / "checkpoint")
    tried = 0
    for view in checkpoint.values():
        whole = view.load()
        for key in keys:
            try:
                expected = whole[key]
            except IndexError:
                with pytest.raises(IndexError):
                    view[key]
                continue
            found = view[key]
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            assert torch.equal(found, expected)
            tried += 1
    assert tried > 4


def test_only_what_is_asked_for_is_read() -> None:
    checkpoint, files = recorded(FIXTURES / "z3_w4/checkpoint")
    view = checkpoint["embed.weight"]
    assert view[2:4].numel() * 4 == files.nbytes < view.nbytes
    assert files.reads <= 2, "at most one for each stripe"


def test_iterating_ends() -> None:
    view = zeroconsolidate.open_checkpoint(FIXTURES / "z2_bf16/checkpoint")["embed.weight"]
    assert torch.equal(torch.stack(list(view)), view.load())


class TestNumpy:
    def test_dtypes(self) -> None:
        checkpoint = zeroconsolidate.open_checkpoint(FIXTURES / "z3_frozen/checkpoint")
        truth = load_fixture("z3_frozen").expected
        kinds = set()
        for name, view in checkpoint.items():
            kinds.add(view.dtype)
            expected = truth[checkpoint.ties.get(name, name)]
            if view.dtype is torch.bfloat16:
                with pytest.raises(BadOption, match=r"numpy has no bfloat16; .*numpy\(dtype=\"fp32\"\)"):
                    view.numpy()
                array = view.numpy(dtype=torch.float32)
                assert torch.equal(torch.from_numpy(array), expected.float())
            else:
                array = view.numpy()
                assert torch.equal(torch.from_numpy(array), expected)
            assert array.shape == view.shape
        assert {torch.float32, torch.bfloat16} <= kinds

    def test_casts(self) -> None:
        view = zeroconsolidate.open_checkpoint(FIXTURES / "z3_bf16/checkpoint")["embed.weight"]
        for given in ("fp16", "float16", torch.float16, np.float16):
            assert view.numpy(dtype=given).dtype == np.float16  # type: ignore[arg-type]
        with pytest.raises(BadOption, match="float32 is not cast to int8 here"):
            view.numpy(dtype="int8")
        with pytest.raises(BadOption, match="no such dtype"):
            view.load(dtype="bf17")
        assert view.load(dtype="bf16").dtype is torch.bfloat16


class TestStream:
    @pytest.mark.parametrize("case", ["z2_w3", "z3_w3"])
    def test_in_the_order_of_the_files(self, case: str) -> None:
        truth = load_fixture(case).expected
        checkpoint = zeroconsolidate.open_checkpoint(FIXTURES / case / "checkpoint")
        found = dict(checkpoint.stream())
        assert found.keys() == checkpoint.keys()
        for name, tensor in truth.items():
            assert torch.equal(found[name], tensor)
        places = [_place(checkpoint, name) for name in found]
        assert places == sorted(places)
        assert list(found) != list(checkpoint), "otherwise this shows nothing"

    def test_tied_weights_are_one_tensor(self) -> None:
        found = dict(zeroconsolidate.open_checkpoint(TIED / "checkpoint").stream("auto"))
        assert found["lm_head.weight"] is found["model.embed_tokens.weight"]
        assert found["lm_head.weight"].dtype is torch.bfloat16

    def test_buffers_keep_their_dtype(self) -> None:
        checkpoint = zeroconsolidate.open_checkpoint(FIXTURES / "z2_bf16/checkpoint")
        roles = {checkpoint[name].role: tensor.dtype for name, tensor in checkpoint.stream("fp16")}
        assert roles["trainable"] is torch.float16
        assert roles["buffer"] is not torch.float16


def _place(checkpoint: Checkpoint, name: str) -> tuple[int, int]:
    first = next(checkpoint.contents.tensors[name].recipe.copies(0, 1))
    return checkpoint.contents.opened.catalog.files.index(first.file), first.file_start


class TestNames:
    def test_as_they_are_written(self, tmp_path: Path) -> None:
        for case in ("models/llm_tied_z3", "models/embedder_z2", "models/lora_z3", "models/mixtral_z3", "models/m3_z2"):
            source = FIXTURES / case / "checkpoint"
            out = tmp_path / case
            zeroconsolidate.consolidate(source, out, ties="copy")
            written = {}
            for path in out.glob("*.safetensors"):
                written |= load_file(path)
            checkpoint = zeroconsolidate.open_checkpoint(source, names="hub")
            heads = {name for name in checkpoint if name.startswith(("colbert_linear.", "sparse_linear."))}
            assert checkpoint.keys() - heads == written.keys(), case
            for name, tensor in written.items():
                assert torch.equal(checkpoint[name].load(), tensor), name

    def test_merged(self, tmp_path: Path) -> None:
        source, base = FIXTURES / "models/lora_z3/checkpoint", FIXTURES / "models/_bases/llama"
        zeroconsolidate.consolidate(source, tmp_path / "out", lora="merge", base=base)
        written = load_file(tmp_path / "out/model.safetensors")
        checkpoint = zeroconsolidate.open_checkpoint(source, names="hub", lora="merge", base=base)
        assert checkpoint.keys() >= written.keys()
        name = next(name for name in written if "q_proj" in name)
        assert torch.equal(checkpoint[name].load(), written[name])
        assert torch.equal(checkpoint[name][3:5, ::2], written[name][3:5, ::2])
        assert checkpoint.optimizer_state(name) == {}, "it was frozen"

    def test_a_tensor_of_several_has_no_state(self) -> None:
        checkpoint = zeroconsolidate.open_checkpoint(FIXTURES / "models/mixtral_z3/checkpoint", names="hub")
        made = next(name for name in checkpoint if ".experts.1." in name)
        with pytest.raises(UnsupportedLayout, match="made of several tensors of the checkpoint, or is merged"):
            checkpoint.optimizer_state(made)
        kept = next(name for name in checkpoint if "q_proj" in name)
        assert list(checkpoint.optimizer_state(kept)) == ["exp_avg", "exp_avg_sq"]


class TestWrongNames:
    def test_a_name_that_is_written(self) -> None:
        checkpoint = zeroconsolidate.open_checkpoint(FIXTURES / "models/embedder_z2/checkpoint")
        written = zeroconsolidate.open_checkpoint(FIXTURES / "models/embedder_z2/checkpoint", names="hub")
        new = next(name for name in written if name not in checkpoint)
        stored = written.contents.tensors[new].name
        with pytest.raises(KeyError) as caught:
            checkpoint[new]
        assert isinstance(caught.value, NoSuchTensor)
        assert f"{stored!r} is called when it is written" in str(caught.value)
        assert 'names="hub"' in str(caught.value)
        with pytest.raises(KeyError, match=f"here it is '{new}'"):
            written[stored]
        with pytest.raises(KeyError, match=f"'{stored}' \\(written as '{new}'\\)"):
            checkpoint[stored + "x"]

    def test_the_nearest(self) -> None:
        checkpoint = zeroconsolidate.open_checkpoint(TIED / "checkpoint")
        with pytest.raises(KeyError, match=r"the nearest names are 'model\.norm\.weight'"):
            checkpoint["norm.weight"]
        with pytest.raises(KeyError, match=r"list\(checkpoint\) has all names"):
            checkpoint["?"]
        assert checkpoint.get("norm.weight") is None
        assert "norm.weight" not in checkpoint


class TestOptimizer:
    @pytest.mark.parametrize("case", ["z2_bf16", "z3_w3"])
    def test_states_have_the_parameters_shape(self, case: str) -> None:
        checkpoint = zeroconsolidate.open_checkpoint(FIXTURES / case / "checkpoint")
        trained = 0
        for name, view in checkpoint.items():
            states = checkpoint.optimizer_state(name)
            if view.role != "trainable":
                assert states == {}
                continue
            assert list(states) == ["exp_avg", "exp_avg_sq"]
            for each in states.values():
                assert each.shape == view.shape
            # Adam's second moment is a mean of squares; the first is none.
            assert states["exp_avg_sq"].load().min() >= 0
            trained += bool(states["exp_avg"].load().lt(0).any())
        assert trained

    def test_states_are_in_the_places_of_the_masters(self, tmp_path: Path) -> None:
        """Each state of the files, overwritten by the masters, reads as the parameter."""
        source = FIXTURES / "z3_w3/checkpoint"
        checkpoint = zeroconsolidate.open_checkpoint(source)
        copy = tmp_path / "copy"
        shutil.copytree(source, copy)
        for path in copy.glob("*/*_optim_states.pt"):
            content = torch.load(path, weights_only=False)
            state = content["optimizer_state_dict"]
            for group, flat in enumerate(state["fp32_flat_groups"]):
                state["optimizer_state_dict"]["state"][group]["exp_avg"] = flat.clone()
            torch.save(content, path)
        trained = {name: view for name, view in checkpoint.items() if view.role == "trainable"}
        assert trained.keys() >= set(load_fixture("z3_w3").provenance["trainable"])
        with zeroconsolidate.open_checkpoint(copy) as changed:
            for name, view in trained.items():
                assert torch.equal(changed.optimizer_state(name)["exp_avg"].load(), view.load()), name

    def test_settings(self) -> None:
        checkpoint = zeroconsolidate.open_checkpoint(FIXTURES / "z3_groups/checkpoint")
        assert checkpoint.step == 2
        assert [group["lr"] for group in checkpoint.param_groups] == [
            group["lr"] for group in zeroconsolidate.inspect(FIXTURES / "z3_groups/checkpoint").param_groups
        ]

    def test_client_state(self) -> None:
        source = FIXTURES / "z2_client_state/checkpoint"
        content = torch.load(next(source.glob("*/mp_rank_00_model_states.pt")), weights_only=False)
        found = zeroconsolidate.open_checkpoint(source).client_state
        assert found
        for key, value in found.items():
            if isinstance(value, zeroconsolidate.TensorView):
                assert torch.equal(value.load(), content[key])
            elif isinstance(value, (int, str, float)):
                assert value == content[key]
        assert not {"module", "ds_config", "param_shapes"} & found.keys()

    def test_client_state_that_contains_itself(self, tmp_path: Path) -> None:
        shutil.copytree(FIXTURES / "z2_client_state/checkpoint", tmp_path / "run")
        file = next((tmp_path / "run").glob("*/mp_rank_00_model_states.pt"))
        endless: list[object] = [torch.tensor([7.0, 8.0])]
        endless.append(endless)
        torch.save(torch.load(file, weights_only=False) | {"endless": endless}, file)
        view, again = zeroconsolidate.open_checkpoint(tmp_path / "run").client_state["endless"]
        assert view.load().tolist() == [7, 8]
        assert view.name == "endless.0"
        assert isinstance(again, list)


class TestIncomplete:
    @pytest.fixture
    def broken(self, tmp_path: Path) -> Path:
        shutil.copytree(FIXTURES / "z2_w4/checkpoint", tmp_path / "run")
        next((tmp_path / "run").glob("*/*pp_rank_2_*optim*")).unlink()
        return tmp_path / "run"

    def test_what_is_whole_is_served(self, broken: Path) -> None:
        with pytest.raises(MissingFiles):
            zeroconsolidate.open_checkpoint(broken)
        checkpoint = zeroconsolidate.open_checkpoint(broken, rescue=True)
        truth = load_fixture("z2_w4").expected
        assert len(checkpoint) > 1
        for name, view in checkpoint.items():
            assert torch.equal(view.load(), truth[checkpoint.ties.get(name, name)])
        lost = [loss.name for loss in checkpoint.losses if loss.lost_numel]
        assert {*lost, *checkpoint} - checkpoint.ties.keys() == truth.keys()
        with pytest.raises(
            MissingFiles, match=f"{lost[0]} is (partly )?lost; .* were in files that are missing"
        ) as caught:
            checkpoint[lost[0]]
        assert caught.value.files == checkpoint.info.missing_files

    def test_a_whole_one(self) -> None:
        checkpoint = zeroconsolidate.open_checkpoint(FIXTURES / "z2_w4/checkpoint", rescue=True)
        assert checkpoint.losses == ()
        assert len(checkpoint) == len(zeroconsolidate.open_checkpoint(FIXTURES / "z2_w4/checkpoint"))


def test_threads_share_it() -> None:
    truth = load_fixture("z3_w3").expected
    with zeroconsolidate.open_checkpoint(FIXTURES / "z3_w3/checkpoint") as checkpoint, ThreadPoolExecutor(8) as pool:
        ready = threading.Barrier(8)

        def read(number: int) -> list[tuple[str, torch.Tensor]]:
            ready.wait()
            names = list(checkpoint)
            return [(name, checkpoint[name].load()) for name in names[number:] + names[:number]]

        for found in pool.map(read, range(8)):
            for name, tensor in found:
                assert torch.equal(tensor, truth.get(name, tensor))


def test_closed_files_are_opened_again() -> None:
    with zeroconsolidate.open_checkpoint(FIXTURES / "z3_w3/checkpoint") as checkpoint:
        before = checkpoint["embed.weight"].load()
        assert checkpoint._local._open
    assert not checkpoint._local._open
    assert torch.equal(checkpoint["embed.weight"].load(), before)


def test_the_manifest_is_not_needed(tmp_path: Path) -> None:
    """Names are planned, not read from an output."""
    shutil.copytree(TIED / "checkpoint", tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["tie_word_embeddings"]
    assert "lm_head.weight" in zeroconsolidate.open_checkpoint(tmp_path / "run", names="hub")
