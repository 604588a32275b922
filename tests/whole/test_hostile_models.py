"""Model directories from outside: safetensors headers, indices, manifests, and what a config makes others run."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from command import REPOSITORY
from hostile import refusal
from safetensors.torch import save_file
from zero_model import Run, save

from zeroconsolidate import verify
from zeroconsolidate.archive.safetensors import read_file, read_model
from zeroconsolidate.archive.weights import read_weights
from zeroconsolidate.cli.command import main
from zeroconsolidate.errors import DamagedFile, UnsafePath
from zeroconsolidate.integrations.architecture import model_class
from zeroconsolidate.naming import asking
from zeroconsolidate.naming.asking import architecture

if TYPE_CHECKING:
    from pathlib import Path

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
    "fewer elements than bytes": (forge, {"a": ONE | {"shape": [2, 2]}}, {}),
    "more elements than bytes": (forge, {"a": ONE | {"shape": [3, 3]}}, {}),
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
    assert any("does not describe a file or tensor" in problem for problem in verify(tmp_path).problems)
    parts |= {"tensors": {}, "files": {"../secret": {"bytes": 1}, "model.safetensors": {}}}
    (tmp_path / "zeroconsolidate.json").write_text(json.dumps(parts))
    assert any("outside of the directory" in problem for problem in verify(tmp_path).problems)


@pytest.mark.usefixtures("processes_of_their_own")
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
    assert model_class(SimpleNamespace(architectures=["nothing", "GPT2Model"])) is transformers.GPT2Model
    for name in ("pipeline", "Trainer", "TrainingArguments", "GPT2Config", "__loader__", "utils", "nothing"):
        assert model_class(SimpleNamespace(architectures=[name])) is None


def test_a_config_that_asks_for_a_billion_layers(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "gpt2", "architectures": ["GPT2Model"], "vocab_size": 1 << 62, "n_embd": 1 << 62})
    )
    found, why = architecture(str(tmp_path))
    assert found is None
    assert "could not build" in why


def test_a_config_that_fills_the_memory(tmp_path):
    """A few megabytes of text are hundreds of megabytes of lists by the time a model is built."""
    pytest.importorskip("transformers")
    lists = ",".join(["[]"] * 1_500_000)
    (tmp_path / "config.json").write_text(f'{{"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "x": [{lists}]}}')
    script = REPOSITORY / "zeroconsolidate/integrations/architecture.py"
    limited = (
        f"import sys; sys.path[0] = {str(script.parent)!r}; import architecture; "
        "architecture.MAX_MEMORY_BYTES = 300 << 20; sys.exit(architecture.main(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", limited, tmp_path], capture_output=True, text=True, check=False)
    assert "MemoryError" in done.stdout


ASK = asking.ask
"""Taken before tests/models answers in its place for the rest of the session."""


@pytest.mark.usefixtures("processes_of_their_own")
def test_a_config_that_takes_for_ever(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(asking, "ARCHITECTURE_SECONDS", 0.01)
    monkeypatch.setattr(asking, "ask", ASK)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2Model"], "n_layer": 3}')
    found, why = architecture(str(tmp_path))
    assert found is None
    assert "took more than" in why


ADAPTER_CONFIGS = {
    "nested": b"[" * 200_000,
    "long number": b'{"peft_type": "LORA", "r": ' + b"9" * 5_000_000 + b"}",
    "no JSON": b"\xff",
    "no object": b"[]",
    "no kind": b"{}",
    "rank of zero": b'{"peft_type": "LORA", "r": 0}',
    "endless alpha": b'{"peft_type": "LORA", "lora_alpha": 1e999}',
}


@pytest.mark.parametrize("config", ADAPTER_CONFIGS.values(), ids=ADAPTER_CONFIGS)
def test_an_adapters_config_that_is_none(tmp_path, config):
    adapter_run(tmp_path / "c", config)
    assert "adapter_config.json" in refusal("convert", str(tmp_path / "c"), str(tmp_path / "o"))


def test_an_adapters_config_of_a_terabyte(tmp_path):
    adapter_run(tmp_path / "c", b"{}")
    os.truncate(tmp_path / "c/adapter_config.json", 1 << 40)
    assert "too large" in refusal("convert", str(tmp_path / "c"), str(tmp_path / "o"))


@pytest.mark.parametrize("lora", ["adapter", "merge"])
def test_an_adapters_config_names_a_base_that_is_not_opened(tmp_path, lora):
    """It is told, never followed: only --base is."""
    (tmp_path / "secret").mkdir()
    os.mkfifo(tmp_path / "secret/model.safetensors")
    os.mkfifo(tmp_path / "secret/config.json")
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["q"], "base_model_name_or_path": str(tmp_path / "secret")}
    adapter_run(tmp_path / "c", json.dumps(config).encode())
    assert main(["convert", "--quiet", "--lora", lora, str(tmp_path / "c"), str(tmp_path / "o")]) == 0


def adapter_run(folder: Path, config: bytes) -> None:
    """A checkpoint of a model with one adapted matrix."""
    prefix = "base_model.model.q."
    factors = {f"{prefix}lora_A.default.weight": torch.randn(2, 4), f"{prefix}lora_B.default.weight": torch.randn(3, 2)}
    base = {f"{prefix}base_layer.weight": torch.randn(3, 4).bfloat16()}
    save(Run(stage=2, world_size=2, groups=[factors], frozen=base), folder)
    (folder / "adapter_config.json").write_bytes(config)


def test_a_checkpoints_code_does_not_run_from_the_console(tmp_path):
    """As `zeroconsolidate inspect .`, the console script, which leaves the working directory out of its path."""
    (tmp_path / "torch.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    root = str(REPOSITORY)
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
