"""Model directories from outside: safetensors headers, indices, manifests, and what a config makes others run."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hostile import refusal
from safetensors.torch import save_file
from zero_model import Run, save

from zeroconsolidate import verify
from zeroconsolidate.archive.safetensors import read_file, read_model
from zeroconsolidate.archive.weights import read_weights
from zeroconsolidate.errors import DamagedFile, UnsafePath
from zeroconsolidate.evidence import architecture
from zeroconsolidate.integrations.architecture import _model_class

ONE = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def forge(path: Path, header: object, *, data: int = 24, length: int | None = None) -> str:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(data))
    return str(path)


HEADERS = {
    "length beyond": (forge, {"a": ONE}, {"length": 1 << 62}),
    "length of 100 MB and one": (forge, {"a": ONE}, {"length": 100_000_001}),
    "no JSON": (forge, b"\x80\x02}.", {}),
    "no object": (forge, [ONE], {}),
    "nested": (forge, b"[" * 100_000, {}),
    "long number": (forge, b'{"a": {"dtype": "F32", "shape": [' + b"9" * 100_000 + b'], "data_offsets": [0, 24]}}', {}),
    "twice": (forge, b'{"a": %b, "a": %b}' % ((json.dumps(ONE).encode(),) * 2), {}),
    "entry is text": (forge, {"a": "x"}, {}),
    "unknown dtype": (forge, {"a": ONE | {"dtype": "F4"}}, {}),
    "dtype is a list": (forge, {"a": ONE | {"dtype": [[[]]]}}, {}),
    "negative": (forge, {"a": ONE | {"shape": [-2, -3]}}, {}),
    "beyond 64 bits": (forge, {"a": ONE | {"shape": [1 << 62, 1 << 62, 0]}}, {}),
    "a million sizes": (forge, {"a": ONE | {"shape": [1 << 50] * 1_000_000}}, {}),
    "nested shape": (forge, {"a": ONE | {"shape": [[[2]], 3]}}, {}),
    "boolean": (forge, {"a": ONE | {"shape": [True, 6]}}, {}),
    "offsets swapped": (forge, {"a": ONE | {"data_offsets": [24, 0]}}, {}),
    "three offsets": (forge, {"a": ONE | {"data_offsets": [0, 12, 24]}}, {}),
    "gap": (forge, {"a": ONE | {"data_offsets": [8, 32]}}, {"data": 32}),
    "overlap": (forge, {"a": ONE, "b": ONE}, {}),
    "past the end": (forge, {"a": ONE}, {"data": 23}),
    "bytes left over": (forge, {"a": ONE}, {"data": 25}),
    "name": (forge, {"a\x1b": ONE}, {}),
    "metadata": (forge, {"__metadata__": [], "a": ONE}, {}),
}


@pytest.mark.parametrize(("make", "header", "more"), HEADERS.values(), ids=HEADERS)
def test_headers(tmp_path, make, header, more):
    with pytest.raises(DamagedFile) as caught:
        read_file(make(tmp_path / "model.safetensors", header, **more))
    assert len(str(caught.value)) < 1000


def test_an_honest_header(tmp_path):
    assert read_file(forge(tmp_path / "model.safetensors", {"a": ONE})).tensors["a"].shape == (2, 3)


def test_a_pipe_in_place_of_weights(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(UnsafePath, match="a pipe"):
        read_model(str(tmp_path))


@pytest.mark.parametrize("file", ["../x.safetensors", "/etc/passwd", "..", "a/b", "a\\b", "\x1b", 7, ["x"]])
@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_an_index_names_files_beside_it(tmp_path, file, index):
    (tmp_path / index).write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(DamagedFile, match=r"outside of its folder|weight_map|cannot be read"):
        read_weights(str(tmp_path))


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[]", '{"weight_map": []}', '{"weight_map": {"a": {}}}'])
@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_an_index_that_is_none(tmp_path, index, text):
    (tmp_path / index).write_text(text)
    with pytest.raises(DamagedFile):
        read_weights(str(tmp_path))


@pytest.mark.parametrize("name", ["zeroconsolidate.json", "config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("text", [b"[" * 100_000, b"{", b"\xff", b"[]", b'{"manifest": 1, "files": {"a": 1}}', None])
def test_verify_tells_and_goes_on(tmp_path, name, text):
    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    if text is None:
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(text)
    if name == "config.json" and text is not None and text.startswith(b'{"'):
        assert not verify(tmp_path).problems  # JSON that says nothing of the weights
    else:
        assert verify(tmp_path).problems


def test_a_manifest_entry_that_is_nothing(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    parts = {"manifest": 1, "options": {}, "source": {}, "tensors": {"a": 1}, "files": {}}
    (tmp_path / "zeroconsolidate.json").write_text(json.dumps(parts))
    assert any("describes nothing" in problem for problem in verify(tmp_path).problems)
    parts |= {"tensors": {}, "files": {"../secret": {"bytes": 1}, "model.safetensors": {}}}
    (tmp_path / "zeroconsolidate.json").write_text(json.dumps(parts))
    assert any("outside of the directory" in problem for problem in verify(tmp_path).problems)


def test_code_in_the_checkpoint_is_not_imported(tmp_path):
    """The command is run from inside the checkpoint, and the checkpoint brings modules of its own."""
    save(Run(stage=2, world_size=1, groups=[{"a": torch.randn(3, 4)}]), tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')
    for module in ("transformers", "torch", "json", "numpy", "safetensors"):
        (tmp_path / f"{module}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        architecture(".")
    finally:
        os.chdir(here)
    assert not (tmp_path / "ran").exists()


def test_a_config_names_models_only():
    transformers = pytest.importorskip("transformers")
    assert _model_class(transformers, "GPT2Model") is transformers.GPT2Model
    for name in ("pipeline", "Trainer", "TrainingArguments", "__loader__", "utils", ["GPT2Model"], None, 7):
        assert _model_class(transformers, name) is None


def test_a_config_that_asks_for_a_billion_layers(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "gpt2", "architectures": ["GPT2Model"], "vocab_size": 1 << 62, "n_embd": 1 << 62})
    )
    found, why = architecture(str(tmp_path))
    assert found is None
    assert "could not build" in why


def test_a_checkpoints_code_does_not_run_from_the_console(tmp_path):
    """As `zeroconsolidate inspect .`, the console script, which leaves the working directory out of its path."""
    (tmp_path / "torch.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    root = str(Path(__file__).parent.parent)
    script = "import sys; sys.path.pop(0); from zeroconsolidate.cli import main; main(['inspect', '.'])"
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        check=True,
    )
    assert not (tmp_path / "ran").exists()


def test_what_a_refusal_says_of_a_model_directory(tmp_path):
    assert "expected" in refusal("inspect", str(tmp_path))
