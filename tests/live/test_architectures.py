"""The architectures that people train most: saved by DeepSpeed, converted, and loaded by transformers bit for bit.

Each is tiny (`tools/architectures`): what can go wrong is which names and shapes its class has.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from command import REPOSITORY, environment
from live_values import bits
from safetensors.torch import load_file

pytest.importorskip("transformers", minversion="5")

from architectures.cases import ARCHITECTURES
from architectures.make import BUFFER

from zeroconsolidate import consolidate
from zeroconsolidate.naming import asking

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.live, pytest.mark.long]

ASKED = frozenset(
    {
        "Dinov2ForImageClassification",
        "Qwen2MoeForCausalLM",
        "ViTMAEForPreTraining",
    }
)
"""Classes that the built-in table does not have: transformers is asked for their names."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each architecture, all of them saved by one process, whichever of pytest's processes comes first."""
    pytest.importorskip("deepspeed")
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, done = root / "architectures", root / "architectures.done"
    with open(root / "architectures.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            command = [sys.executable, "-m", "architectures.make", str(folder)]
            made = subprocess.run(
                command, cwd=REPOSITORY / "tools", env=environment(), capture_output=True, text=True, timeout=900,
                check=False,
            )  # fmt: skip
            assert made.returncode == 0, made.stderr[-3000:]
            done.touch()
    return folder


@pytest.fixture
def every_question(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """As `questions`, and those whose answer this process would have known."""
    asked: list[bytes] = []
    answer = asking._answer

    def recorded(config: bytes) -> Any:
        asked.append(config)
        return answer(config)

    monkeypatch.setattr(asking, "_answer", recorded)
    yield asked
    asking.ask.cache_clear()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_loads_as_the_engine_had_it(name: str, saved: Path, every_question: list[bytes], tmp_path: Path) -> None:
    import transformers

    report = consolidate(saved / name / "checkpoint", tmp_path / "model", cache=False)
    assert report.warnings == ()
    assert bool(every_question) == (name in ASKED)
    assert ("built-in table" in report.names) == (name not in ASKED)
    model, info = getattr(transformers, name).from_pretrained(
        tmp_path / "model", output_loading_info=True, dtype=torch.float32
    )
    assert not any(info.values()), info
    loaded, truth = model.state_dict(), load_file(saved / name / "truth.safetensors")
    owners = json.loads((saved / name / "facts.json").read_text())
    expected = owners | {key.removeprefix(BUFFER): key for key in truth if key.startswith(BUFFER)}
    assert sorted(loaded) == sorted(expected)
    # What is not trained is no float32 in the engine: the model has the same value in another dtype.
    live = {key: truth[owner].to(loaded[key].dtype) for key, owner in expected.items()}
    assert [key for key, value in loaded.items() if bits(value) != bits(live[key])] == []


def test_there_are_as_many_as_we_say() -> None:
    assert len(ARCHITECTURES) == 92
    assert len(ASKED) == 3
    assert {architecture.stage for architecture in ARCHITECTURES.values()} == {1, 2, 3}
    assert set(ARCHITECTURES) >= ASKED
