"""A recipe with its reader, and a storage for inputs and outputs, are added from here without touching the package."""

from __future__ import annotations

import hashlib
import itertools
import pickle
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.torch
import torch
from command import python
from scaled import Scaled, ScaledReader

from zeroconsolidate.adapters.recipes import Shifted
from zeroconsolidate.dtypes import DType
from zeroconsolidate.errors import DamagedFile, OutputFailed, PlanBroken
from zeroconsolidate.opening.open import open_catalog
from zeroconsolidate.plan.build import build, padding_bytes, select, sources
from zeroconsolidate.plan.joined import Joined, Mean, Section
from zeroconsolidate.plan.patched import Patched, Zeros
from zeroconsolidate.plan.pieces import Rows
from zeroconsolidate.run import local
from zeroconsolidate.run.counts import Counts
from zeroconsolidate.run.digest import Follower, Span, digest_of
from zeroconsolidate.run.elements import read_all
from zeroconsolidate.run.execute import execute
from zeroconsolidate.run.inputs import Inputs
from zeroconsolidate.run.local import LocalFiles
from zeroconsolidate.run.local_output import LocalOutput
from zeroconsolidate.run.reader import Reader, reader
from zeroconsolidate.run.storage import Readable, Writable

if TYPE_CHECKING:
    from collections.abc import Callable

    from zeroconsolidate.plan.layout import FilePlan
    from zeroconsolidate.plan.pieces import Recipe

FIXTURES = Path(__file__).parent.parent / "fixtures"
CASES = ["z1_channels_last", "z2_bf16", "z3_bf16", "layouts/megatron_tp2_z1"]
"""Strided views, windows, stripes; columns of parts that are joined, and a mean."""


# --- what is plugged in


class MemoryFiles(Readable):
    """Files in memory; `read_bytes` counts what is read of them."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.contents = contents
        self.read_bytes = 0

    def size_bytes(self, file: str) -> int:
        return len(self.contents[file])

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        self.read_bytes += len(buffer)
        data = self.contents[file][start : start + len(buffer)]
        if len(data) < len(buffer):
            raise DamagedFile("the file ends too early", address=(file,))
        buffer[:] = data


class MemoryOutput(Writable):
    """A file in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes | memoryview, start: int) -> None:
        self.data[start : start + len(data)] = data

    def read_into(self, start: int, buffer: memoryview) -> None:
        buffer[:] = self.data[start : start + len(buffer)]


class SharingOutput(MemoryOutput):
    """Takes from `MemoryFiles` without a block between, `most` bytes at a time and `limit` in all."""

    def __init__(self, *, most: int, limit: int = 1 << 40) -> None:
        super().__init__()
        self.most, self.limit = most, limit

    def copy_from(self, source: Readable, file: str, file_start: int, size_bytes: int, start: int) -> int:
        assert isinstance(source, MemoryFiles)
        got = min(size_bytes, self.most, self.limit)
        self.data[start : start + got] = source.contents[file][file_start : file_start + got]
        self.limit -= got
        return got


class Case:
    """A fixture whose files are in memory, and nowhere else."""

    def __init__(self, name: str, folder: Path) -> None:
        shutil.copytree(FIXTURES / name / "checkpoint", folder)
        self.catalog = open_catalog(str(folder), None)
        self.stored = sources(self.catalog)
        self.files = MemoryFiles({str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
        shutil.rmtree(folder)
        self.truth = safetensors.torch.load_file(FIXTURES / name / "expected.safetensors")

    def plan(
        self, *, dtype: DType | None = None, change: Callable[[Recipe], Recipe] = lambda recipe: recipe
    ) -> FilePlan:
        """The one file of the output, the recipes of float32 changed."""
        stored = {
            name: replace(source, recipe=change(source.recipe)) if source.recipe.dtype is DType.F32 else source
            for name, source in self.stored.items()
        }
        chosen = select(self.catalog, stored, copy_ties=False, wanted=lambda name, source: True)
        padding = padding_bytes(self.catalog)
        (file,) = build(chosen, dtype=dtype, max_shard_bytes=None, padding_bytes=padding).files
        return file


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return Case(request.param, tmp_path / "checkpoint")


def run(plan: FilePlan, files: Readable, output: Writable, start: int = 0) -> list[int]:
    told: list[int] = []
    with Inputs(files) as inputs:
        execute(plan, inputs, output, start=start, counts=Counts(), reached=told.append)
    assert told == sorted(told)
    assert told[-1] == plan.size_bytes
    return told


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_written(output: MemoryOutput, truth: dict[str, torch.Tensor]) -> None:
    written = safetensors.torch.load(bytes(output.data))
    assert written.keys() == truth.keys()
    for name, tensor in truth.items():
        assert written[name].dtype == tensor.dtype
        assert written[name].shape == tensor.shape
        assert bits(written[name]) == bits(tensor), name


# --- storages


def test_a_checkpoint_in_memory_becomes_a_file_in_memory(case: Case):
    output = MemoryOutput()
    run(case.plan(), case.files, output)
    assert_written(output, case.truth)


def test_a_cast_in_memory(case: Case):
    output, parameters = MemoryOutput(), {t.name for t in case.plan().tensors if t.is_parameter}
    run(case.plan(dtype=DType.BF16), case.files, output)
    truth = {name: tensor.bfloat16() if name in parameters else tensor for name, tensor in case.truth.items()}
    assert_written(output, truth)


@pytest.mark.parametrize("case", CASES[1:3], indirect=True)
def test_a_pair_copies_as_it_can_do_best(case: Case):
    """A storage that need not read what it copies: all of it, a piece at a time, or until it no longer can."""
    plan = case.plan()
    transposed = sum(tensor.nbytes for tensor in plan.tensors if not tensor.is_copy)
    assert transposed < 100
    for output in (SharingOutput(most=1 << 40), SharingOutput(most=100)):
        case.files.read_bytes = 0
        told = run(plan, case.files, output)
        assert case.files.read_bytes == transposed
        assert_written(output, case.truth)
    assert max(after - before for before, after in itertools.pairwise(told[1:])) <= 100
    output = SharingOutput(most=100, limit=150)
    run(plan, case.files, output)
    assert case.files.read_bytes > 2 * transposed
    assert_written(output, case.truth)


def test_what_is_in_memory_is_digested_as_it_is_written(case: Case):
    plan, output = case.plan(), MemoryOutput()
    spans = [Span(0, len(plan.header), None)]
    spans += [Span(at, at + t.nbytes, t.name) for t, at in zip(plan.tensors, plan.starts, strict=True)]
    with Follower(output, spans, "sha256") as follower, Inputs(case.files) as inputs:
        execute(plan, inputs, output, start=0, counts=Counts(), reached=follower.reached)
        found = follower.result()
    assert found.file == hashlib.sha256(output.data).hexdigest()
    for span in spans[1:]:
        assert found.tensors[span.name] == hashlib.sha256(output.data[span.start : span.stop]).hexdigest()
    files = MemoryFiles({"out": bytes(output.data)})
    assert digest_of(files, "out", "sha256", progress=lambda _: None) == found.file


def test_an_output_that_cannot_be_read_back_has_no_digest():
    class Unreadable(MemoryOutput):
        def read_into(self, start: int, buffer: memoryview) -> None:
            raise OutputFailed("what was written has gone")

    with Follower(Unreadable(), [Span(0, 4, "w")], "sha256") as follower:
        follower.reached(4)
        with pytest.raises(OutputFailed, match="has gone"):
            follower.result()


def test_runs_of_a_local_file_are_those_that_single_reads_give(tmp_path: Path):
    data = np.random.default_rng(5).bytes(70_000)
    (tmp_path / "in").write_bytes(data)
    path = str(tmp_path / "in")
    with LocalFiles() as files:
        for start, run_bytes, step_bytes, count in [
            (0, 4, 12, 9),
            (5001, 6, 10, 300),
            (8191, 8, 4096, 15),
            (3, 1, 7, 2),
        ]:
            got, expected = bytearray(run_bytes * count), bytearray(run_bytes * count)
            how: dict[str, Any] = {"run_bytes": run_bytes, "step_bytes": step_bytes, "count": count}
            files.read_runs(path, start, **how, buffer=memoryview(got))
            Readable.read_runs(files, path, start, **how, buffer=memoryview(expected))
            assert got == expected
        with pytest.raises(DamagedFile, match="the file ends too early; expected at least 70001 bytes, got 70000"):
            files.read_runs(path, 69_000, run_bytes=1, step_bytes=1000, count=2, buffer=memoryview(bytearray(2)))


def test_threads_share_files_though_few_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A descriptor that another thread needs no more is not closed under the one that reads from it."""
    monkeypatch.setattr(local, "MAX_OPEN", 1)
    paths = [str(tmp_path / str(number)) for number in range(4)]
    for number, path in enumerate(paths):
        Path(path).write_bytes(bytes([number]) * 64)
    wrong: list[object] = []

    def read(number: int, files: LocalFiles) -> None:
        block = bytearray(64)
        try:
            for _ in range(500):
                files.read_into(paths[number], 0, memoryview(block))
                if set(block) != {number}:
                    wrong.append(bytes(block))
        except DamagedFile as error:
            wrong.append(error)

    with LocalFiles() as files:
        held = files.opened(paths[0])
        threads = [threading.Thread(target=read, args=(number, files)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Path(f"/proc/self/fd/{held.fd}").readlink() == Path(paths[0])
    assert wrong == []


def test_what_has_been_written_can_be_read_back(tmp_path: Path):
    with (tmp_path / "out").open("w+b", buffering=0) as file:
        output, block = LocalOutput("the output", file.fileno(), start=0), bytearray(4)
        output.write(b"0123456789", 0)
        output.read_into(3, memoryview(block))
        assert block == b"3456"
        with pytest.raises(OutputFailed, match="it has become shorter while it was being written") as caught:
            output.read_into(8, memoryview(block))
        assert caught.value.address == ("the output",)


# --- recipes


@pytest.mark.parametrize("dtype", [None, DType.BF16])
def test_a_new_recipe_is_read_by_its_reader(case: Case, dtype: DType | None):
    def half(recipe: Recipe) -> Recipe:
        return Scaled(base=recipe, factor=0.5)

    plan, plain = case.plan(dtype=dtype, change=half), case.plan(dtype=dtype)
    scaled = {tensor.name for tensor in plan.tensors if isinstance(tensor.recipe, Scaled)}
    assert scaled
    for new, old in zip(plan.tensors, plain.tensors, strict=True):
        assert new.recipe.input_bytes == old.recipe.input_bytes
    output, parameters = MemoryOutput(), {tensor.name for tensor in plan.tensors if tensor.is_parameter}
    run(plan, case.files, output)
    truth = {name: tensor * 0.5 if name in scaled else tensor for name, tensor in case.truth.items()}
    if dtype is not None:
        truth = {name: tensor.bfloat16() if name in parameters else tensor for name, tensor in truth.items()}
    assert_written(output, truth)


@pytest.mark.parametrize("case", ["z3_bf16"], indirect=True)
def test_recipes_made_of_others_take_a_new_one(case: Case):
    recipe, truth = next((s.recipe, case.truth[n]) for n, s in case.stored.items() if len(s.shape) == 2)
    rows, columns = truth.shape
    twice, flat = Scaled(base=recipe, factor=2.0), truth.reshape(-1)
    made = {
        Section(twice, columns + 1, 2 * columns): 2 * flat[columns + 1 : 3 * columns + 1],
        Mean((recipe, twice)): (flat + 2 * flat) / 2,
        Rows((recipe, twice), columns, ((1, rows - 1, 1), (0, 0, 1))): torch.cat([2 * truth[-1], truth[0]]),
    }
    with Inputs(case.files) as inputs:
        for made_of, expected in made.items():
            assert not made_of.is_copied
            assert made_of.numel == len(expected)
            assert read_all(made_of, inputs).tobytes() == expected.numpy().tobytes()
        halved = Zeros(numel=columns, dtype=DType.BF16)
        with pytest.raises(PlanBroken, match="one dtype"):
            reader(Rows((twice, halved), columns, ((0, 0, 1),)), inputs)
        mixed = Rows((halved, recipe), columns, ((0, 0, 1), (1, 1, 1)))
        assert read_all(mixed, inputs).tobytes() == torch.cat([torch.zeros(columns), truth[1]]).numpy().tobytes()
    shares = [made_of.input_bytes for made_of in made]
    assert shares == [8 * columns, 8 * flat.numel(), 8 * columns]


@pytest.mark.parametrize("case", ["z3_bf16"], indirect=True)
def test_a_recipe_without_a_reader_is_refused(case: Case):
    class Unread(Scaled):
        pass

    recipe = next(source.recipe for source in case.stored.values())
    unread = Patched(Scaled(base=recipe, factor=1.0), Zeros(recipe.numel, recipe.dtype), ((0, 1),))
    joined = Joined(recipe.numel, (), (Scaled(base=recipe, factor=1.0),))
    with Inputs(case.files) as inputs:
        for strange in (unread, joined):
            with pytest.raises(PlanBroken, match=f"no reader is registered for {type(strange).__name__}"):
                read_all(strange, inputs)
        # A recipe that is derived from another is read as that one is.
        assert isinstance(reader(Unread(base=recipe, factor=1.0), inputs), ScaledReader)


@pytest.mark.parametrize("case", ["z3_bf16"], indirect=True)
def test_a_recipe_that_went_to_another_process_finds_its_reader(case: Case, tmp_path: Path):
    """A worker that was handed a plan has imported nothing of its own accord, and torch not before it must."""
    bias = next(source.recipe for source in case.stored.values() if len(source.shape) == 1)
    shifted = Shifted(base=bias, dtype=DType.F32, shifts=((bias, 2.0),))
    with Inputs(case.files) as inputs:
        truth = read_all(bias, inputs)
        truth = truth + truth * np.float32(2)
    (tmp_path / "sent").write_bytes(pickle.dumps((shifted, case.files.contents)))
    worker = """
import pickle, sys

recipe, contents = pickle.load(open(sys.argv[1], "rb"))
assert not {"torch", "numpy"} & set(sys.modules)

from zeroconsolidate.run.inputs import Inputs
from zeroconsolidate.run.elements import read_all
from zeroconsolidate.run.storage import Readable

class Files(Readable):
    def read_into(self, file, start, buffer):
        buffer[:] = contents[file][start : start + len(buffer)]

with Inputs(Files()) as inputs:
    print(read_all(recipe, inputs).tobytes().hex())
"""
    done = python(worker, tmp_path / "sent")
    assert done.returncode == 0, done.stderr
    assert bytes.fromhex(done.stdout) == truth.tobytes()


# --- what a run shares between tensors


class Kept:
    """A resource that writes down when it was closed."""

    def __init__(self, closed: list[Kept]) -> None:
        self._closed = closed

    def close(self) -> None:
        self._closed.append(self)


def test_resources_are_made_once_and_closed_the_last_one_first():
    closed: list[Kept] = []
    with pytest.raises(ZeroDivisionError), Inputs(MemoryFiles({})) as inputs:
        first, second = (inputs.resource(key, lambda: Kept(closed)) for key in ("first", "second"))
        assert first is not second
        assert inputs.resource("first", lambda: Kept(closed)) is first
        assert closed == []
        raise ZeroDivisionError
    assert closed == [second, first]


@pytest.mark.parametrize("case", ["z3_bf16"], indirect=True)
def test_the_last_two_readers_of_rows_are_kept(case: Case, monkeypatch: pytest.MonkeyPatch):
    made: list[Recipe] = []
    true = ScaledReader.__init__

    def counted(self: ScaledReader, recipe: Scaled, inputs: Inputs) -> None:
        made.append(recipe)
        true(self, recipe, inputs)

    monkeypatch.setattr(ScaledReader, "__init__", counted)
    recipe = next(source.recipe for source in case.stored.values())
    a, b, c = (Scaled(base=recipe, factor=factor) for factor in (1.0, 2.0, 3.0))
    with Inputs(case.files) as inputs:
        for whole in (a, b, a, b, c, b, a):
            found: Reader = reader(Rows((whole,), 1, ((0, 0, 1),)), inputs)
            assert found.block_numel is None
    assert made == [a, b, c, a]
