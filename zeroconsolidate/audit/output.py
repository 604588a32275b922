"""A model directory -> what is wrong with it: headers, index, sizes, config, names, digests."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..archive.json_file import parse_object
from ..archive.manifest_file import read_manifest
from ..archive.model_files import MANIFEST_NAME, MAX_HEADER_BYTES, is_weights
from ..archive.phrases import counted
from ..archive.places import exists, is_directory, names_in
from ..archive.places import size_bytes as length
from ..archive.printable import described
from ..archive.regular import read_small
from ..archive.weights import Weights, read_weights
from ..errors import BadOption, DamagedFile, MissingPackage, NotACheckpoint, StoreFailed, ZeroConsolidateError, reason
from ..outputs.gate.examine import examine
from ..outputs.gate.finding import Kind
from ..outputs.model_card import CARD
from ..outputs.modules import has_own_weights, modules_in
from ..run.digest import digest_of
from ..run.files import Files
from ..run.together import in_order
from ..write.refusals import JOURNAL, STAGING
from .findings import NOT_WHOLE
from .subset import choose
from .universal import audit_universal, is_universal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..options.share import Share
    from ..run.inputs import Inputs
    from .findings import Findings


def audit_output(
    directory: str,
    several: Sequence[Inputs],
    findings: Findings,
    *,
    base: str | None = None,
    share: Share | None = None,
) -> None:
    """All checks; what is wrong goes into `findings`. `several`: inputs for a thread each. `base`: directory of the
    original model. `share`: how much of the files that have digests is to be read.

    Raises NotACheckpoint if there is no such directory.
    """
    if not is_directory(directory):
        raise NotACheckpoint("there is no such directory", address=(directory,))
    if exists(os.path.join(directory, STAGING, JOURNAL)):
        findings.problems.append("a conversion into this directory was interrupted; run it again to finish it")
    weights, resumes = None, is_universal(directory)
    try:
        if not resumes and has_own_weights(modules_in(directory)):
            weights = read_weights(directory)
    except StoreFailed:
        raise
    except ZeroConsolidateError as error:
        findings.problems.append(str(error))
    if weights is not None:
        _structure(directory, weights, findings)
    try:
        manifest = read_manifest(directory)
    except DamagedFile as error:
        findings.problems.append(str(error))
        manifest = {}
    if manifest is None:
        findings.notes.append(f"values not checked: there is no {MANIFEST_NAME} to compare with")
    elif manifest:
        if weights is not None:
            _tensors(weights, manifest["tensors"], findings)
        # Fragments have checksums of their own.
        _files(directory, manifest | ({"digest": "crc32"} if resumes else {}), several, findings, share)
    if resumes:
        audit_universal(directory, several, findings, share=share)
    else:
        _loading(directory, manifest or {}, base, findings)


def _loading(directory: str, manifest: Mapping[str, Any], base: str | None, findings: Findings) -> None:
    """What the program that loads it would find. What is as the manifest says was asked for when it was written."""
    is_merged = (manifest.get("options") or {}).get("lora") == "merge"
    found = examine(directory, base=base, is_merged=is_merged)
    findings.checks += found.checked
    findings.notes += [f"not checked: {text}" for text in found.unchecked]
    if found.unchecked or any(finding.kind is Kind.MISSING for finding in found.findings):
        findings.notes += _partial(manifest.get("options") or {})
    known = manifest.get("excused")
    excused = known if isinstance(known, list) else []
    for finding in found.findings:
        if finding.text in excused:
            findings.notes.append(f"allowed by an option when it was written: {finding.text}")
        elif finding.text not in findings.problems:
            findings.problems.append(finding.text)


def work_bytes(directory: str) -> int:
    """How many bytes `audit_output` will read, for a progress bar."""
    try:
        manifest = read_manifest(directory) or {}
    except DamagedFile:
        return 0
    return sum(
        entry["bytes"]
        for entry in manifest.get("files", {}).values()
        if isinstance(entry, dict) and len(entry) > 1 and isinstance(entry.get("bytes"), int)
    )


def _structure(directory: str, weights: Weights, findings: Findings) -> None:
    findings.files = len(weights.files)
    findings.tensors = len(weights.tensors)
    findings.checks.append(
        f"headers of {counted(len(weights.files), 'file')} with {counted(len(weights.tensors), 'tensor')}"
    )
    unlisted = [name for name in sorted(names_in(directory)) if is_weights(name) and name not in weights.files]
    if weights.index:
        findings.checks.append("the index against the shards")
        findings.problems += [f"{name}: the index does not name this file" for name in unlisted]
        metadata = parse_object(read_small(os.path.join(directory, weights.index), MAX_HEADER_BYTES), "the index").get(
            "metadata"
        )
        total = metadata.get("total_size") if isinstance(metadata, dict) else None
        held = sum(tensor.numel * tensor.dtype.itemsize for tensor in weights.tensors.values())
        if total is not None and total != held:
            findings.problems.append(f"{weights.index}: 'total_size' is wrong; expected {held}, got {total}")


def _partial(options: Mapping[str, Any]) -> list[str]:
    """What was left out on purpose: a loader would not miss a word about it."""
    used = [f"--{key} {glob}" for key in ("include", "exclude") for glob in options.get(key) or ()]
    used += ["--exclude-frozen"] if options.get("exclude_frozen") else []
    return [f"{NOT_WHOLE}: it was written with {' '.join(used)}"] if used else []


def _tensors(weights: Weights, listed: Mapping[str, Any], findings: Findings) -> None:
    """Names, dtypes and shapes as the manifest lists them."""
    for name, entry in listed.items():
        tensor = weights.tensors.get(name)
        expected = (entry.get("file"), entry.get("dtype"), entry.get("shape"))
        got = tensor and (os.path.basename(tensor.file), tensor.dtype.code, list(tensor.shape))
        if got != expected:
            findings.problems.append(f"{name}: not as in the manifest; expected {expected}, got {got or 'nothing'}")
    extra = [name for name in weights.tensors if name not in listed]
    findings.problems += [f"{name}: the manifest has no such tensor" for name in extra]
    findings.checks.append("names, dtypes and shapes against the manifest")


def _files(
    directory: str, manifest: Mapping[str, Any], several: Sequence[Inputs], findings: Findings, share: Share | None
) -> None:
    """Sizes and digests as the manifest lists them; damage in weights is traced to the tensors it is in."""
    with_digest = {name: entry for name, entry in manifest["files"].items() if _algorithm(entry) is not None}
    subset = choose({name: entry["bytes"] for name, entry in with_digest.items()}, share)
    problems: dict[str, list[str]] = {}
    asked: list[_Asked] = []
    for name, entry in manifest["files"].items():
        wrong = problems[name] = []
        path = os.path.join(directory, name)
        if os.path.isabs(name) or ".." in name.split("/"):
            wrong.append(f"{MANIFEST_NAME}: it names a file outside of the directory; got {described(name)}")
            continue
        try:
            size_bytes = length(path)
        except OSError as error:
            if name == CARD:
                continue  # it is there to be edited, or to be removed
            wrong.append(f"{name}: {reason(error)}")
            continue
        if name == CARD and size_bytes != entry.get("bytes"):
            findings.notes.append(f"{name}: edited since it was written")
            continue
        if size_bytes != entry.get("bytes"):
            wrong.append(f"{name}: the size differs; expected {entry.get('bytes')} bytes, got {size_bytes}")
        algorithm = _algorithm(entry)
        if algorithm is not None and name in subset:
            asked.append(_Asked(name, path, algorithm))
    digested, (inputs, *others) = 0, several
    with in_order(_digest, asked, inputs, others=others, progress=findings.read) as results:
        for file, got in results:
            name, expected = file.name, manifest["files"][file.name][file.algorithm]
            if isinstance(got, (BadOption, MissingPackage)):
                findings.notes.append(f"{name}: digest not checked: {got}")
            elif isinstance(got, ZeroConsolidateError):
                problems[name].append(f"{name}: {got}")
            else:
                digested += 1
                if got != expected and name == CARD:
                    findings.notes.append(f"{name}: edited since it was written")
                elif got != expected:
                    damaged = _damaged(directory, name, file.algorithm, manifest["tensors"])
                    where = f", in {', '.join(damaged)}" if damaged else ""
                    problems[name].append(
                        f"{name}: the {file.algorithm} differs{where}; expected {expected}, got {got}"
                    )
    findings.problems += [text for texts in problems.values() for text in texts]
    subset.tell(findings, "file")
    sizes = counted(len(manifest["files"]), "file size")
    findings.checks.append(f"{sizes} and {counted(digested, 'digest')} against the manifest")
    if manifest.get("digest") is None:
        findings.notes.append(
            "values not checked: the manifest has no digests of the weights; convert with --digest, or compare with "
            "--against CHECKPOINT"
        )


def _algorithm(entry: Mapping[str, Any]) -> str | None:
    """The kind of digest that a file has."""
    return next((key for key in ("sha256", "xxh3") if key in entry), None)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A file of which the manifest has a digest."""

    name: str
    path: str
    algorithm: str


def _digest(inputs: Inputs, file: _Asked, advance: Callable[[int], None]) -> tuple[_Asked, str | ZeroConsolidateError]:
    try:
        return file, digest_of(inputs.files, file.path, file.algorithm, progress=advance)
    except (BadOption, DamagedFile, MissingPackage) as error:
        return file, error


def _damaged(directory: str, file: str, algorithm: str, listed: Mapping[str, Any]) -> list[str]:
    """The tensors of a file whose own digests differ."""
    try:
        weights = read_weights(directory)
        with Files() as files:
            return [
                name
                for name, entry in listed.items()
                if entry.get("file") == file
                and algorithm in entry
                and (tensor := weights.tensors.get(name)) is not None
                and digest_of(
                    files,
                    tensor.file,
                    algorithm,
                    start=tensor.start,
                    stop=tensor.start + tensor.numel * tensor.dtype.itemsize,
                    progress=lambda _: None,
                )
                != entry[algorithm]
            ]
    except ZeroConsolidateError:
        return []
