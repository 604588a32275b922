"""Break a checkpoint in one named way, to see what a reader makes of it.

    python tools/break_fixture.py --list
    python tools/break_fixture.py truncated tests/fixtures/z2_bf16/checkpoint somewhere

The checkpoint is copied, the copy is broken. Each way is one edit, of the kind that disks, copies and people make.
The tests use the same edits (`tests/cli/test_bad_input.py`).
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def model_files(root: Path) -> list[Path]:
    """The model files of the checkpoint's only tag, by rank."""
    return _by_rank(root.glob("*/*model_states.pt"))


def optimizer_files(root: Path) -> list[Path]:
    """The optimizer files of the checkpoint's only tag, by rank."""
    return _by_rank(root.glob("*/*optim_states.pt"))


def _by_rank(paths: object) -> list[Path]:
    return sorted(paths, key=lambda path: [int(n) for n in re.findall(r"pp_rank_([0-9]+)", path.name)])


def edit_record(path: Path, record: str, change: Callable[[bytes], bytes]) -> None:
    """Replace the content of every record of a `.pt` file whose name ends with `/record` by `change(content)`."""
    with zipfile.ZipFile(path) as old:
        records = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in records.items():
            new.writestr(name, change(content) if re.search(f"/{record}$", name) else content)


def edit_pickle(path: Path, pattern: bytes, replacement: bytes) -> None:
    """Replace the first match of `pattern` in `data.pkl` (behind its group 1); there must be one."""

    def kept(match: re.Match[bytes]) -> bytes:
        return (match[1] if match.re.groups else b"") + replacement

    def change(content: bytes) -> bytes:
        changed, count = re.subn(pattern, kept, content, count=1, flags=re.DOTALL)
        if not count:
            msg = f"{path.name} has nothing that matches {pattern!r}"
            raise ValueError(msg)
        return changed

    edit_record(path, r"data\.pkl", change)


def truncated(root: Path) -> None:
    """The last optimizer file ends in the middle, as after a full disk."""
    path = optimizer_files(root)[-1]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncated_model(root: Path) -> None:
    """The first model file has lost its last 100 bytes."""
    path = model_files(root)[0]
    path.write_bytes(path.read_bytes()[:-100])


def zero_bytes(root: Path) -> None:
    """The last optimizer file is empty, as after a crash."""
    optimizer_files(root)[-1].write_bytes(b"")


def not_a_zip(root: Path) -> None:
    """The first model file is a Git LFS pointer that was never fetched."""
    model_files(root)[0].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n")


def other_zip(root: Path) -> None:
    """The first model file is a zip archive of something else."""
    with zipfile.ZipFile(model_files(root)[0], "w") as file:
        file.writestr("notes/readme.txt", "nothing")


def garbage_pickle(root: Path) -> None:
    """The pickle of the last optimizer file is overwritten with noise."""
    edit_record(optimizer_files(root)[-1], r"data\.pkl", lambda content: b"\xfe" * len(content))


def os_system(root: Path) -> None:
    """The pickle of the last optimizer file would run a shell command in place of making an enum member."""
    edit_pickle(optimizer_files(root)[-1], rb"cdeepspeed\.runtime\.zero\.config\nZeroStageEnum\n", b"cos\nsystem\n")


def rank_missing(root: Path) -> None:
    """The last optimizer file was not copied."""
    optimizer_files(root)[-1].unlink()


def model_rank_missing(root: Path) -> None:
    """The last model file was not copied."""
    model_files(root)[-1].unlink()


def extra_rank(root: Path) -> None:
    """There is an optimizer file of one rank more, left from a larger run."""
    files = optimizer_files(root)
    name = re.sub(r"pp_rank_[0-9]+", f"pp_rank_{len(files)}", files[-1].name)
    shutil.copyfile(files[-1], files[-1].with_name(name))


def rank_twice(root: Path) -> None:
    """The last rank has two optimizer files, one with and one without the prefix of bf16 runs."""
    path = optimizer_files(root)[-1]
    name = path.name.removeprefix("bf16_") if path.name.startswith("bf16_") else f"bf16_{path.name}"
    shutil.copyfile(path, path.with_name(name))


def other_step(root: Path) -> None:
    """The last model file says it was saved at step 99."""
    edit_pickle(model_files(root)[-1], rb"(global_steps(?:q.|r....))K.", b"K\x63")


def other_world(root: Path) -> None:
    """The model files say that there were three ranks more."""
    for path in model_files(root):
        edit_pickle(path, rb"(dp_world_size(?:q.|r....))K.", b"K\x05")


def other_masters(root: Path) -> None:
    """In the first optimizer file every fourth byte is changed: the masters are no longer those of the module."""

    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[2::4] = bytes(byte ^ 0x40 for byte in changed[2::4])
        return bytes(changed) if len(content) > 64 else content

    edit_record(optimizer_files(root)[0], "data/[0-9]+", change)


def ranks_swapped(root: Path) -> None:
    """The optimizer files of the first and the last rank have each other's names."""
    first, last = optimizer_files(root)[0], optimizer_files(root)[-1]
    aside = first.rename(first.with_suffix(".aside"))
    last.rename(first)
    aside.rename(last)


def latest_wrong(root: Path) -> None:
    """The file `latest` names a tag that was never completed."""
    (root / "latest").write_text("global_step99")


EDITS: dict[str, Callable[[Path], None]] = {
    edit.__name__: edit
    for edit in (
        truncated, truncated_model, zero_bytes, not_a_zip, other_zip, garbage_pickle, os_system, rank_missing,
        model_rank_missing, extra_rank, rank_twice, other_step, other_world, other_masters, ranks_swapped, latest_wrong,
    )
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="tell the edits and stop")
    parser.add_argument("edit", nargs="?", choices=EDITS)
    parser.add_argument("checkpoint", nargs="?", type=Path)
    parser.add_argument("out", nargs="?", type=Path)
    args = parser.parse_args()
    if args.list or args.out is None:
        for name, edit in EDITS.items():
            print(f"{name:20} {edit.__doc__}")
        return 0 if args.list else 2
    shutil.copytree(args.checkpoint, args.out)
    EDITS[args.edit](args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
