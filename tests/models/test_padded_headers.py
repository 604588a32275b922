"""Headers that cloning pads with spaces are read by all who read headers of safetensors, as they read others.

Files of other releases of safetensors and transformers are in `tools/compatibility`, which reads a padded model, too.
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
import safetensors
import torch
from cloned import tensors
from disks import pretend
from fixtures import FIXTURES
from hub_server import REPOSITORY, hub_server
from safetensors.torch import load, load_file

import zeroconsolidate

if TYPE_CHECKING:
    from pathlib import Path

BLOCK_BYTES = 4096
CASES = ["llm_untied_z2", "llm_tied_z3"]


@pytest.fixture(scope="module", params=CASES)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same model, cloned and copied."""
    folder = tmp_path_factory.mktemp("models")
    checkpoint = FIXTURES / "models" / request.param / "checkpoint"
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch, BLOCK_BYTES)
        report = zeroconsolidate.consolidate(checkpoint, folder / "cloned", reflink="always")
    assert report.cloned_bytes
    zeroconsolidate.consolidate(checkpoint, folder / "copied", reflink="never")
    assert tensors(folder / "cloned") == tensors(folder / "copied")
    return folder / "cloned", folder / "copied"


@pytest.fixture
def padded(models: tuple[Path, Path]) -> list[Path]:
    """The files of the cloned one, of which one is padded by more than any writer of safetensors does."""
    files = sorted(models[0].glob("*.safetensors"))
    spaces = [len(text) - len(text.rstrip(b" ")) for text in map(header_bytes, files)]
    assert max(spaces) > 64
    return files


def header_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little"))


def described(tensor: Any) -> tuple[str, list[int]]:
    return tensor.dtype, list(tensor.shape)


def test_safetensors(models: tuple[Path, Path], padded: list[Path]) -> None:
    """By mapping the file, and out of memory."""
    copied = load_file(models[1] / "model.safetensors")
    for read in (load_file, lambda path: load(path.read_bytes())):
        found: dict[str, torch.Tensor] = {}
        for path in padded:
            found |= read(path)
        assert found.keys() == copied.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in copied.items())
    for path in padded:
        with safetensors.safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  (it is no mapping)
                part = file.get_slice(name)
                assert part.get_shape() == list(copied[name].shape)
                assert torch.equal(part[:1], copied[name][:1])


def test_transformers(models: tuple[Path, Path], padded: list[Path]) -> None:
    from transformers import AutoModelForCausalLM

    loaded = []
    for folder in models:
        model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info
        loaded.append(model.state_dict())
    cloned, copied = loaded
    assert cloned.keys() == copied.keys()
    assert all(torch.equal(cloned[name], tensor) for name, tensor in copied.items())


def test_huggingface_hub_reads_headers_from_afar(
    models: tuple[Path, Path], padded: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi, constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))  # where the index is kept

    copied = load_file(models[1] / "model.safetensors")
    codes = {torch.float32: "F32"}
    expected = {name: (codes[tensor.dtype], list(tensor.shape)) for name, tensor in copied.items()}
    with hub_server() as hub:
        api = HfApi(endpoint=hub.endpoint, token=False)
        hub.put(models[0], "")
        of_file = {path.name: api.parse_safetensors_file_metadata(REPOSITORY, path.name) for path in padded}
        found = {name: described(each) for file in of_file.values() for name, each in file.tensors.items()}
        assert found == expected
        whole = api.get_safetensors_metadata(REPOSITORY)
        assert whole.sharded == (len(padded) > 1)
        assert whole.files_metadata.keys() == {path.name for path in padded}
        assert whole.weight_map == {name: file for file, held in of_file.items() for name in held.tensors}
        assert whole.parameter_count == {"F32": sum(tensor.numel() for tensor in copied.values())}


def test_the_rule_by_which_vllm_reads_headers(models: tuple[Path, Path], padded: list[Path]) -> None:
    """The length in eight bytes, little-endian, and so many bytes of UTF-8 that are all JSON: `__metadata__`, and of
    each tensor its dtype, shape and offsets (`parse_safetensors_file_metadata` in `vllm/transformers_utils/utils.py`,
    at commit 03dc707; `get_safetensors_params_metadata` in `config.py` beside it joins all files `*.safetensors`). Of
    the files it loads those that the index names (`filter_duplicate_safetensors_files` in
    `vllm/model_executor/model_loader/weight_utils.py`)."""
    copied = load_file(models[1] / "model.safetensors")
    found: dict[str, Any] = {}
    for path in padded:
        text = header_bytes(path)
        held = json.loads(text.decode("utf-8"))
        held.pop("__metadata__", None)
        found |= held
        # Behind the header there is nothing but these tensors, one after the other.
        ends = sorted(each["data_offsets"] for each in held.values())
        assert ends[0][0] == 0
        assert all(one[1] == other[0] for one, other in itertools.pairwise(ends))
        assert 8 + len(text) + ends[-1][1] == path.stat().st_size
    assert {name: (each["dtype"], each["shape"]) for name, each in found.items()} == {
        name: ("F32", list(tensor.shape)) for name, tensor in copied.items()
    }
    index = models[0] / "model.safetensors.index.json"
    assert index.exists() == (len(padded) > 1)
    if index.exists():
        assert set(json.loads(index.read_text())["weight_map"].values()) == {path.name for path in padded}
