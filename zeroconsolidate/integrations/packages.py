"""What only a part of the work needs, or all of it -> whether it is there, or the sentence what to do about it."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from ..errors import MissingPackage, UnsupportedSystem


def install(extra: str) -> str:
    """The command that brings what an extra of this package names, such as `torch`."""
    return f"pip install 'zeroconsolidate[{extra}]'"


def missing(what: str, package: str, *, extra: str) -> MissingPackage:
    """`what`: what needs the package, as the subject of a sentence. `extra`: of this package, that brings it."""
    return MissingPackage(f"{what} needs {package}, which is not installed", remedy=install(extra))


def need_torch(what: str) -> None:
    """Raises MissingPackage where torch is not installed. `what`: what needs it, as the subject of a sentence.

    torch is searched for and not imported, so that this can be asked before anything is written.
    """
    if find_spec("torch") is None:
        raise missing(what, "torch", extra="torch")


def need_transformers(what: str, why: str) -> None:
    """Raises MissingPackage where transformers, or the torch that it needs, is not installed. `what`: what needs it, as
    the subject of a sentence. `why`: what it does there, as a sentence."""
    lacking = [name for name in ("transformers", "torch") if find_spec(name) is None]
    if lacking:
        raise MissingPackage(
            f"{what} needs {' and '.join(lacking)}, which {'is' if len(lacking) == 1 else 'are'} not installed: {why}",
            remedy=install("quantize"),
        )


def need_peft(kind: str) -> None:
    """Raises MissingPackage where PEFT is not installed. `kind`: of adapter, as PEFT spells it."""
    if find_spec("peft") is None:
        raise MissingPackage(
            f"merging adapters of kind {kind} needs PEFT, which is not installed", remedy="pip install peft"
        )


def refuse_windows() -> None:
    """Raises UnsupportedSystem on Windows: what makes an output safe (locks, names that are replaced while they are in
    use, folders that are synced) are calls that it does not have."""
    if sys.platform == "win32":
        raise UnsupportedSystem(
            "zeroconsolidate runs on Linux and macOS, not on Windows itself",
            remedy="install and run it in the Windows Subsystem for Linux: wsl --install",
        )
