"""A directory on disk -> what the program that loads it would not find. The last check before files get their names.

Every output passes it before anything gets its final name, whatever was planned and however names were decided:
files are opened again, and only their headers, the index and the configs beside them count. `verify` asks the same of
a directory that any tool wrote.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...archive.model_files import ADAPTER_CONFIG
from ...archive.places import exists, is_file, names_in
from ...archive.regular import scan
from ...archive.safetensors import read_file
from ...archive.weights import read_pickled, read_weights
from ...errors import UnsafePath, UnsafePickle, WrongNames, ZeroConsolidateError
from ..modules import Module, has_own_weights, modules_in
from . import model as gate_model
from . import modules as gate_modules
from .finding import Finding, GateResult, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...archive.weights import Weights

MAX_DEPTH = 2
"""How deep below the output weights are searched for: in modules of sentence-transformers, in adapters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excuses:
    """Findings that the caller has allowed."""

    insisted: str | None = None
    """The option with which every finding is a warning."""
    is_partial: bool = False
    """Tensors were left out on purpose, or are lost: that they are missing is a warning, not an error."""
    modules: frozenset[str] = frozenset()
    """Every part of the names of an adapter run. What PEFT lists as trained and is not among them was not trained."""


def examine(directory: str, *, base: str | None = None, is_merged: bool = False, remember: bool = False) -> GateResult:
    """Compare a directory of a model or of adapters with what its loader expects.

    `base`: directory of the original model that an adapter belongs to, or that adapters were merged into. What cannot
    be read is a finding too. `is_merged`: adapters were merged into the base: the model then has the base's names.
    Asks transformers where the config names an architecture and it is installed, unless the built-in table confirms
    that all is as it should be. `remember`: the user's cache directory is searched for its answer, and keeps it.
    """
    weights, findings, modules = None, list[Finding](), tuple[Module, ...]()
    try:
        modules = modules_in(directory)
        weights = read_weights(directory) if has_own_weights(modules) else None
    except ZeroConsolidateError as error:
        findings.append(Finding(kind=Kind.FILE, text=str(error)))
    adapters = [folder for folder in _folders(directory) if exists(os.path.join(folder, ADAPTER_CONFIG))]
    if adapters:
        from . import adapter as gate_adapter

        results = [gate_adapter.examine(folder, directory, base, remember=remember) for folder in adapters]
        findings = []  # weights in the directory itself are those of the adapter in it
    elif weights is not None:
        results = [gate_model.examine(directory, weights, base if is_merged else None, remember=remember)]
    else:
        results = []
    results.append(gate_modules.examine(directory, modules, remember=remember))
    results.append(GateResult(findings=(*findings, *_other_weights(directory, weights, adapters))))
    return GateResult.all_of(results)


def pass_or_refuse(result: GateResult, excuses: Excuses) -> tuple[str, ...]:
    """Warnings about what was found and allowed. Raises WrongNames for the rest."""
    excused = [finding for finding in result.findings if _is_excused(finding, excuses)]
    wrong = [finding for finding in result.findings if finding not in excused]
    if wrong:
        more = f" ({len(wrong) - 1} more like it)" if len(wrong) > 1 else ""
        can_insist = all(_is_excused(finding, Excuses(insisted="--allow-missing")) for finding in wrong)
        raise WrongNames(
            f"the output would not load correctly: {wrong[0].text}{more}",
            consequence="no output was written",
            remedy="--allow-missing writes it anyway" if can_insist else None,
        )
    return tuple(finding.text for finding in excused)


def _is_excused(finding: Finding, excuses: Excuses) -> bool:
    if finding.kind in (Kind.FILE, Kind.EMPTY):
        return False  # nobody asks for a file that cannot be read
    if finding.module and excuses.modules and finding.module not in excuses.modules:
        return True
    return excuses.insisted is not None or (excuses.is_partial and finding.kind is Kind.MISSING)


def _other_weights(directory: str, weights: Weights | None, adapters: list[str]) -> Iterator[Finding]:
    """Weights that were copied: a run under ZeRO-3 leaves files of empty tensors behind, which load without a word."""
    own = set() if weights is None else {os.path.join(directory, name) for name in weights.files}
    for folder in _folders(directory):
        for entry in sorted(names_in(folder)):
            path = os.path.join(folder, entry)
            if path in own or not is_file(path) or (folder in adapters and entry.startswith("adapter_model.")):
                continue
            name = os.path.relpath(path, directory)
            try:
                if entry.endswith(".safetensors"):
                    shapes = {key: tensor.shape for key, tensor in read_file(path).tensors.items()}
                elif entry.endswith((".bin", ".pt", ".pth")):
                    shapes = {key: tensor.shape for key, tensor in read_pickled(folder, entry).items()}
                else:
                    continue
            except (UnsafePickle, UnsafePath) as error:
                yield Finding(kind=Kind.FILE, text=str(error))
                continue
            except ZeroConsolidateError:
                continue  # some other program's file, which is none of ours to judge
            empty = [key for key, shape in shapes.items() if 0 in shape]
            if empty:
                yield Finding(
                    kind=Kind.EMPTY,
                    text=f"{name} holds tensors without elements, such as {empty[0]}: a run under ZeRO-3 leaves such "
                    "files behind, and a loader takes them for weights",
                )


def _folders(directory: str) -> Iterator[str]:
    """The directory and the folders below it, no deeper than MAX_DEPTH; nothing that is hidden, no links."""
    pending = [(directory, 0)]
    while pending:
        folder, depth = pending.pop(0)
        yield folder
        if depth < MAX_DEPTH:
            try:
                below = sorted(e.path for e in scan(folder) if e.is_dir(follow_symlinks=False) and e.name[0] != ".")
            except OSError:
                continue
            pending += [(path, depth + 1) for path in below]
