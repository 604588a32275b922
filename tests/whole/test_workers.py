"""Several threads make the output that one makes: of all kinds, and one continues what others began."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from fixtures import FIXTURES

from zeroconsolidate import consolidate, estimate, verify
from zeroconsolidate.errors import BadOption
from zeroconsolidate.outputs import weights
from zeroconsolidate.run import execute as executor
from zeroconsolidate.write import part

if TYPE_CHECKING:
    from pathlib import Path

BASES = FIXTURES / "models" / "_bases"
CASES = {
    "fp32": (FIXTURES / "z3_w3", {}),
    "bf16": (FIXTURES / "z2_fp32", {"dtype": "bf16"}),
    "fp16 in shards, with digests": (
        FIXTURES / "z3_bf16",
        {"dtype": "fp16", "max_shard_size": "1KB", "digest": "sha256"},
    ),
    "merged": (FIXTURES / "models" / "lora_z3", {"lora": "merge", "dtype": "bf16", "base": BASES / "llama"}),
    "merged by rows and tokens": (FIXTURES / "models" / "lora_tokens_z2", {"lora": "merge", "base": BASES / "qwen2"}),
    "DoRA": (FIXTURES / "models" / "dora_z2", {"lora": "merge", "base": BASES / "llama"}),
    "experts": (FIXTURES / "models" / "mixtral_z3", {"dtype": "bf16"}),
}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "BLOCK_BYTES", 256)
    monkeypatch.setattr(executor, "PIECE_BYTES", 1024)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("case", CASES)
def test_the_output_is_the_same(case: str, tmp_path: Path):
    fixture, options = CASES[case]
    for workers in (1, 2, 5):
        consolidate(fixture / "checkpoint", tmp_path / str(workers), workers=workers, **options)
    alone = contents(tmp_path / "1")
    assert contents(tmp_path / "2") == alone
    assert contents(tmp_path / "5") == alone


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 2)])
def test_it_is_continued_with_another_number(before: int, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(part, "SYNC_BYTES", 512)
    source, options = FIXTURES / "z2_fp32" / "checkpoint", {"dtype": "bf16"}
    consolidate(source, tmp_path / "straight", **options)

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consolidate(source, tmp_path / "out", workers=before, progress=stop, **options)
    report = consolidate(source, tmp_path / "out", workers=after, **options)
    assert report.resumed_bytes > 0
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")
    assert verify(tmp_path / "out", against=source).ok


def test_auto_is_one_for_each_processor_where_something_is_computed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weights, "processors", lambda: 6)
    source = FIXTURES / "z2_fp32" / "checkpoint"

    def memory(**options: Any) -> int:
        return estimate(source, **options).peak_memory_bytes

    assert memory(dtype="bf16") == memory(dtype="bf16", workers=6) > memory(dtype="bf16", workers=1)
    assert memory() == memory(workers=1)


@pytest.mark.parametrize("workers", [0, -1, 65, "many", "2.5", True, 1.0])
def test_what_is_no_number_of_threads_is_refused(workers: Any, tmp_path: Path):
    with pytest.raises(BadOption, match=r"^workers takes a number from 1 to 64, or auto"):
        consolidate(FIXTURES / "z2_fp32" / "checkpoint", tmp_path / "out", workers=workers)
    assert not (tmp_path / "out").exists()


def test_the_number_is_not_part_of_the_output(tmp_path: Path):
    consolidate(FIXTURES / "z2_fp32" / "checkpoint", tmp_path / "out", workers=3)
    assert "workers" not in json.loads((tmp_path / "out" / "zeroconsolidate.json").read_text())["options"]
