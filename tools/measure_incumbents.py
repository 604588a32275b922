"""What DeepSpeed's own converters make of the layout fixtures, judged by the live engine's values.

    python tools/measure_incumbents.py [--json FILE] [--only CASE ...]

Runs `deepspeed.utils.zero_to_fp32` and `deepspeed.checkpoint.ds_to_universal` on every fixture, each in a process of
its own with a time limit, and prints a Markdown table. Verdicts:

    -            the fixture is the converter's own output
    right        every parameter there, every bit equal
    incomplete   parameters missing, the others right
    wrong        a value differs, and nothing says so
    crash        an exception (its first line is given); `refused` when the converter states a reason of its own
    timeout

`ds_to_universal` wants `universal_checkpoint_info`, which only some clients save; where it refuses for that reason it
is run again with `--inject_missing_state`, and the table says so. It is asked for the trained parameters only: it is
made to resume training, and frozen parameters stay in the model file. Buffers are not judged.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    Converter = Callable[[Path, Path], tuple[dict[str, Any], str]]
    """Checkpoint and empty directory -> tensors by name, a remark for the table."""

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "layouts"

REASONED = (ValueError, AssertionError, NotImplementedError)
"""Exceptions by which the converters refuse on purpose, when the message is a sentence."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one converter fared on one fixture."""

    result: str
    detail: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the verdicts to this file")
    parser.add_argument("--only", nargs="+", default=[], metavar="CASE")
    parser.add_argument("--fixtures", type=Path, default=FIXTURES)
    parser.add_argument("--timeout", type=float, default=60, metavar="SECONDS", help="for one converter on one fixture")
    args = parser.parse_args()
    # Imported once here: each converter runs in a fork, which saves the import two hundred times over.
    import deepspeed.checkpoint.ds_to_universal
    import deepspeed.utils.zero_to_fp32

    rows: dict[str, dict[str, Verdict]] = {}
    for folder in sorted(path.parent for path in args.fixtures.glob("*/provenance.json")):
        if args.only and folder.name not in args.only:
            continue
        rows[folder.name] = {
            name: judge_apart(converter, folder, args.timeout) for name, converter in CONVERTERS.items()
        }
        print("\t".join([folder.name, *(verdict.result for verdict in rows[folder.name].values())]), file=sys.stderr)
    print(table(rows))
    if args.json:
        plain = {case: {name: asdict(verdict) for name, verdict in row.items()} for case, row in rows.items()}
        args.json.write_text(json.dumps({"deepspeed": deepspeed.__version__, "cases": plain}, indent=1) + "\n")
    return 0


def table(rows: dict[str, dict[str, Verdict]]) -> str:
    lines = ["| checkpoint | " + " | ".join(CONVERTERS) + " |", "|---|" + "---|" * len(CONVERTERS)]
    for case, row in rows.items():
        cells = [verdict.result + (f": {verdict.detail}" if verdict.detail else "") for verdict in row.values()]
        lines.append(f"| {case} | " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def judge_apart(converter: Converter, folder: Path, timeout: float) -> Verdict:
    if not (folder / "checkpoint" / "latest").exists():
        return Verdict("-", "")
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=judge, args=(converter, folder, send))
    process.start()
    send.close()
    try:
        if not receive.poll(timeout):
            return Verdict("timeout", f"no end after {timeout:.0f} s")
        return Verdict(*receive.recv())
    except EOFError:
        process.join()
        return Verdict("crash", f"the process ended with code {process.exitcode}")
    finally:
        process.kill()
        process.join()


def judge(converter: Converter, folder: Path, send: Connection) -> None:
    torch.set_num_threads(1)
    silence = io.StringIO()
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        try:
            found, remark = converter(folder / "checkpoint", Path(out))
        except BaseException as error:
            message = (str(error).strip().splitlines() or [""])[0]
            reasoned = isinstance(error, REASONED) and len(message.split()) > 3
            send.send(("refused" if reasoned else "crash", f"{type(error).__name__}: {scrub(message, folder, out)}"))
            return
    result, detail = compare(found, folder, trained_only=converter is ds_to_universal)
    send.send((result, ", ".join(filter(None, (detail, remark)))))


def scrub(message: str, folder: Path, out: str) -> str:
    """Keep the paths of this machine out of the table."""
    return message.replace(str(folder), "FIXTURE").replace(out, "OUT")[:160]


def compare(found: dict[str, Any], folder: Path, *, trained_only: bool) -> tuple[str, str]:
    provenance = json.loads((folder / "provenance.json").read_text())
    expected = load_file(folder / "expected.safetensors")
    skipped = set(provenance["buffers"]) | (set(provenance["frozen"]) if trained_only else set())
    names = {}
    for alias, name in provenance["ties"].items():
        names.setdefault(name, []).append(alias)
    missing, different = [], []
    for name, value in expected.items():
        if name in skipped:
            continue
        got = next((found[key] for key in (name, *names.get(name, ())) if key in found), None)
        if got is None:
            missing.append(name)
        elif got.numel() != value.numel() or not same(got, value):
            different.append(name)
    total = len(expected) - len(skipped & expected.keys())
    if different:
        return "wrong", f"{len(different)} of {total} parameters differ" + (f", {len(missing)} missing" * bool(missing))
    if missing:
        return "incomplete", f"{len(missing)} of {total} parameters missing"
    return "right", ""


def same(got: torch.Tensor, value: torch.Tensor) -> bool:
    """Bit for bit in fp32; a flat tensor is compared by its elements."""
    got, value = (tensor.detach().float().contiguous().flatten() for tensor in (got, value))
    return torch.equal(got.view(torch.int32), value.view(torch.int32))


def zero_to_fp32(checkpoint: Path, out: Path) -> tuple[dict[str, Any], str]:
    from deepspeed.utils.zero_to_fp32 import convert_zero_checkpoint_to_fp32_state_dict

    convert_zero_checkpoint_to_fp32_state_dict(str(checkpoint), str(out))
    return torch.load(out / "pytorch_model.bin", weights_only=True), ""


def ds_to_universal(checkpoint: Path, out: Path) -> tuple[dict[str, Any], str]:
    from deepspeed.checkpoint.ds_to_universal import main as convert

    tag = (checkpoint / "latest").read_text().strip()
    arguments = argparse.Namespace(
        input_folder=str(checkpoint / tag),
        output_folder=str(out / "universal"),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=False,
    )
    remark = ""
    try:
        convert(arguments)
    except AssertionError as error:
        if "universal_checkpoint_info" not in str(error):
            raise
        arguments.inject_missing_state, remark = True, "with --inject_missing_state"
        convert(arguments)
    found = {}
    for path in (out / "universal" / "zero").glob("*/fp32.pt"):
        content = torch.load(path, weights_only=False)
        found[path.parent.name] = content["param"] if isinstance(content, dict) else content
    return found, remark


CONVERTERS: dict[str, Converter] = {
    "zero_to_fp32": zero_to_fp32,
    "ds_to_universal": ds_to_universal,
}

if __name__ == "__main__":
    raise SystemExit(main())
