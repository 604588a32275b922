"""Results -> docs/compatibility.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .matrix import PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Mapping

HEAD = """\
# Compatibility

With which releases of other programs zeroconsolidate works, found out by running it with them, each in an environment
of its own. Written by `python -m compatibility` in `tools/`. Releases that are not listed were not tried, and nothing
is known to be wrong with them.
"""
WHAT = {
    "DeepSpeed": "Saves in this repository that a release made, converted and compared with the engine's values.",
    "safetensors": "Conversions, and their files read back; and a model whose headers are padded with spaces, as those "
    "of [cloned models](cloning.md) are.",
    "numpy": "Conversions, and their files read back.",
    "torch": "Tensors in memory, merged adapters, and files that torch loads. What PyPI has for x86-64 needs CUDA, and "
    "so does what it has for Arm after 2.10: releases up to that are tried with a Python for Arm under QEMU's "
    "emulation, and 2.13 with a build for CPUs. Other releases could not be had where this was run.",
    "transformers": "Converted models, loaded with the release: nothing may be missing or unexpected.",
    "PEFT": "A written adapter, loaded, and merged by the release itself. Its `adapter_config.json` is the training "
    "run's, here of PEFT 0.21.2; old releases refuse fields that they do not know.",
    "sentence-transformers": "A model written with `--sentence-transformers`. The training run had transformers 5.",
    "FlagEmbedding": "An embedder, a reranker and a BGE-M3 with its heads, loaded by its classes, and their answers "
    "held against those of the model in training. `sh tools/test_flagembedding.sh` tries all fixtures with 1.4.2.",
    "Python for Arm": "Conversions on 64-bit Arm, under QEMU's emulation.",
}


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page. `results`: by program and version, `ok`, `said`, `python` and `date`."""
    parts = [HEAD]
    for program in PROGRAMS:
        found = [(name, result) for name, result in results.items() if name.rpartition(" ")[0] == program]
        if found:
            parts.append(f"## {program}\n\n{WHAT[program]}\n")
            lines = ["| release | | | tried on |", "|---|---|---|---|"]
            lines += [
                f"| {name.rpartition(' ')[2]} | {'works' if result['ok'] else 'does not work'} | {result['said']} "
                f"| {result['date']}, Python {result['python']} |"
                for name, result in sorted(found, key=lambda each: _key(each[0]))
            ]
            parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _key(name: str) -> list[int]:
    return [int(part) for part in name.rpartition(" ")[2].split(".") if part.isdigit()]
