"""Ways of reading a checkpoint and of copying it, each beside another: figures in docs/measured.md.

    python tools/bench_reads.py make --dir DIR                  a checkpoint of 64 ranks at stage 3, 1 GB
    python tools/bench_reads.py run CHECKPOINT … --dir DIR      ways of reading, on a page cache that is emptied (root)
                                                                or, with --warm, is not
    python tools/bench_reads.py run CHECKPOINT … --dir DIR --kernel    the kernel's copy beside reads and writes

Each try is a process of its own that plans the conversion, and then writes its weights and syncs them, which is what is
timed. In a round each way has its turn, the output is removed before the next, and quoted are medians of the ratios to
the first way in the same round. `DIR` is where outputs go.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from zeroconsolidate.opening.opened import open_to_convert  # noqa: E402
from zeroconsolidate.options import Options  # noqa: E402
from zeroconsolidate.outputs import sharing  # noqa: E402
from zeroconsolidate.outputs.planned import plan_weights  # noqa: E402
from zeroconsolidate.outputs.weights import workers_for  # noqa: E402
from zeroconsolidate.run import execute as executor  # noqa: E402
from zeroconsolidate.run.clone import Means, Shareable  # noqa: E402
from zeroconsolidate.run.counts import Counts  # noqa: E402
from zeroconsolidate.run.inputs import Inputs, side_by_side  # noqa: E402
from zeroconsolidate.run.local import LocalFiles  # noqa: E402
from zeroconsolidate.run.local_output import LocalOutput  # noqa: E402
from zeroconsolidate.run.storage import copy_range  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from zeroconsolidate.plan.layout import FilePlan
    from zeroconsolidate.run.storage import Extent

WINDOW_BYTES = 64 << 20


class Sequential(LocalFiles):
    """The kernel is told that each file is read from its beginning to its end: it reads twice as far ahead."""

    def opened(self, path: str) -> Any:
        known = path in self._open
        found = super().opened(path)
        if not known:
            os.posix_fadvise(found.fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return found


class Unannounced(LocalFiles):
    """The kernel is not told what will be read."""

    def expecting(self, extents: Iterable[Extent]) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass(frozen=True, kw_only=True)
class Way:
    """How it is done otherwise than in the package."""

    files: Callable[..., LocalFiles] = LocalFiles
    block_bytes: int = executor.BLOCK_BYTES
    in_source_order: bool = False
    """Of each 64 MiB of the output, what lies first in the input is read first, and neighbours together."""
    in_kernel: bool = False
    drop_cache: bool = False
    casts: bool = True
    """Whether it can be tried where values are cast."""


READING = {
    "as it is": Way(),
    "blocks of 8 MiB": Way(block_bytes=8 << 20),
    "POSIX_FADV_SEQUENTIAL": Way(files=Sequential),
    "nothing read ahead": Way(files=Unannounced),
    "in the order of the input, 64 MiB at a time": Way(in_source_order=True, casts=False),
    "--drop-cache": Way(drop_cache=True),
}
KERNEL = {"reads and writes": Way(), "copy_file_range": Way(in_kernel=True)}
"""The first of each is what the others are compared with."""


def in_source_order(file: FilePlan) -> Iterator[tuple[str, int, int, int]]:
    """(file, start, bytes, start in the output), window after window; what is one in both files is one."""
    window: list[tuple[str, int, int, int]] = []
    held = 0
    for tensor, start in zip(file.tensors, file.starts, strict=True):
        for copy in tensor.recipe.copies(0, tensor.numel):
            window.append((copy.file, copy.file_start, copy.nbytes, start + copy.start * tensor.dtype.itemsize))
            held += copy.nbytes
        if held >= WINDOW_BYTES:
            yield from joined(sorted(window))
            window, held = [], 0
    yield from joined(sorted(window))


def joined(copies: list[tuple[str, int, int, int]]) -> Iterator[tuple[str, int, int, int]]:
    """Neighbours together."""
    last: tuple[str, int, int, int] | None = None
    for path, start, size_bytes, to in copies:
        if last is not None and (path, start, to) == (last[0], last[1] + last[2], last[3] + last[2]):
            last = (path, last[1], last[2] + size_bytes, last[3])
            continue
        if last is not None:
            yield last
        last = (path, start, size_bytes, to)
    if last is not None:
        yield last


def attempt(checkpoint: str, out: Path, way: Way, dtype: str, *, lined_up: bool) -> float:
    """Seconds to write all weights, and to sync them. `lined_up`: each extent begins in the output where it does in
    the input, within a page."""
    options = Options(names="stored", dtype=dtype, reflink="always" if lined_up else "never")
    sharing.probe = lambda *_: Shareable(block_bytes=4096, apart={})  # asked only if there is a directory
    opened = open_to_convert(checkpoint, options)
    plan = plan_weights(opened, options, directory=str(out) if lined_up else None).plan
    executor.BLOCK_BYTES = way.block_bytes
    means = Means(in_kernel=way.in_kernel, drop_cache=way.drop_cache)
    began = time.perf_counter()
    with way.files(drop_cache=way.drop_cache) as files, side_by_side(Inputs(files), workers_for(plan, options)) as own:
        for file in plan.files:
            with (out / file.name).open("w+b") as written:
                output = LocalOutput(file.name, written.fileno(), start=0, means=means)
                if way.in_source_order:
                    block = memoryview(bytearray(way.block_bytes))
                    output.write(file.header, 0)
                    for path, start, size_bytes, to in in_source_order(file):
                        copy_range(files, path, start, size_bytes, output, to, block=block, reached=lambda _: None)
                else:
                    with files.expecting(executor.extents_of(file, 0)):
                        executor.execute(
                            file, own[0], output, start=0, counts=Counts(), reached=lambda _: None, others=own[1:]
                        )
                os.fsync(written.fileno())
                output.synced(file.size_bytes)
    return time.perf_counter() - began


def compare(checkpoint: Path, scratch: Path, repeat: int, dtype: str, *, kernel: bool, cold: bool) -> str:
    """A table: rounds of all ways on one checkpoint."""
    ways = KERNEL if kernel else {name: way for name, way in READING.items() if way.casts or dtype == "fp32"}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeat):
        for name in ways:
            out = scratch / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            os.sync()
            if cold:
                Path("/proc/sys/vm/drop_caches").write_text("1")
            command = [sys.executable, __file__, "try", str(checkpoint), "--dir", str(out), f"--way={name}"]
            command += ["--dtype", dtype, *(["--kernel"] if kernel else [])]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name].append(float(json.loads(done.stdout)))
            print(f"  round {number}  {name:<44} {found[name][-1]:6.2f} s", file=sys.stderr)
            shutil.rmtree(out)
    lines = [
        f"**{checkpoint.name}, {dtype}, {'cold' if cold else 'warm'}**",
        "",
        "| | time | of the first |",
        "|---|--:|--:|",
    ]
    for name, seconds in found.items():
        ratio = statistics.median(one / other for one, other in zip(seconds, found[next(iter(ways))], strict=True))
        lines.append(f"| {name} | {statistics.median(seconds):.2f} s | {ratio:.2f} |")
    return "\n".join(lines)


def make(directory: Path) -> None:
    """A checkpoint of many ranks: of most tensors each has little."""
    import synthetic

    synthetic.write(directory / "z3_64", synthetic.values_of(synthetic.shapes_of(1000, layers=24)), stage=3, ranks=64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("make", "run", "try"))
    parser.add_argument("checkpoints", type=Path, nargs="*")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--kernel", action="store_true", help="compare the kernel's copy with reads and writes")
    parser.add_argument("--warm", action="store_true", help="leave the page cache as it is")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.verb == "make":
        make(options.dir)
    for checkpoint in options.checkpoints:
        if options.verb == "try":
            way = {**READING, **KERNEL}[options.way]
            print(attempt(str(checkpoint), options.dir, way, options.dtype, lined_up=options.kernel))
        else:
            print(
                "\n"
                + compare(
                    checkpoint, options.dir, options.repeat, options.dtype, kernel=options.kernel, cold=not options.warm
                )
            )


if __name__ == "__main__":
    main()
