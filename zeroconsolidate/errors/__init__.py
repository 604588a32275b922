"""Every error that this package raises, on one page.

Each is also the built-in error that a caller would think of catching. They stand in three modules, by what is at fault:
`checkpoint`, what is read; `request`, what is asked for; `output`, what is made of it::

    ZeroConsolidateError
    ├── NotACheckpoint        FileNotFoundError    the path, the tag or `latest` leads to no checkpoint
    │   └── SaveGone          FileNotFoundError    the save was removed before it could be converted
    ├── MissingFiles          FileNotFoundError    files of some ranks are missing (`.files`)
    ├── DamagedFile           ValueError           a file is truncated, empty, or not what its name says
    │   ├── UnsafePickle      ValueError           a pickle names code that no checkpoint needs; nothing was run
    │   └── UnsafePath        ValueError           a link out of its directory, or a pipe or device in place of a file
    ├── Disagreement          ValueError           two files of one checkpoint contradict each other
    ├── WitnessMismatch       ValueError           a master weight does not round to its 16-bit copy
    ├── UnsupportedLayout     NotImplementedError  the layout is unknown, or known and cannot be read
    ├── StoreFailed           RuntimeError         an object store refuses, or does not answer
    ├── BadOption             ValueError           an option that is unknown, or makes no sense for this checkpoint
    ├── NoSuchTensor          KeyError             the checkpoint has no tensor of this name
    ├── BadIndex              IndexError           what stands between the brackets is not in the tensor
    ├── WrongNames            ValueError           a loader would not find its parameters under these names
    ├── MissingPackage        ImportError          a package that only this needs is not installed, such as torch
    ├── UnsupportedSystem     ImportError          the operating system lacks what this package needs: Windows
    ├── OutputExists          FileExistsError      the output is not empty, or another process is writing it
    │   └── OutputBusy        FileExistsError      another process is writing it
    ├── OutputFailed          OSError              the output could not be written (`.errno` is the system's)
    ├── RankFailed            RuntimeError         another rank of a running engine could not load its part
    └── PlanBroken            ValueError           a bug in this library, noticed before it could do harm

An error has parts. The command prints each on a line of its own, and `--json` gives them by name::

    >>> error = DamagedFile("the flat group holds too few elements", expected="12", found="10")
    >>> error.message, error.expected, error.found
    ('the flat group holds too few elements', '12', '10')

It also has an address: the places it happened at, outermost first. Code that works on a file, a group or a tensor does
so inside of :func:`at`, which puts that place in front of the address of any error that passes::

    >>> with at("bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"), at("group 0"):
    ...     raise error
    Traceback (most recent call last):
        ...
    zeroconsolidate.errors.checkpoint.DamagedFile: the flat group holds too few elements; expected 12, got 10 \
(at bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt > group 0)
"""

from .base import Parts, ZeroConsolidateError, at
from .checkpoint import (
    DamagedFile,
    Disagreement,
    MissingFiles,
    NotACheckpoint,
    SaveGone,
    StoreFailed,
    UnsafePath,
    UnsafePickle,
    UnsupportedLayout,
    WitnessMismatch,
)
from .output import OutputBusy, OutputExists, OutputFailed, PlanBroken, RankFailed, reason
from .request import BadIndex, BadOption, MissingPackage, NoSuchTensor, UnsupportedSystem, WrongNames

__all__ = [
    "BadIndex",
    "BadOption",
    "DamagedFile",
    "Disagreement",
    "MissingFiles",
    "MissingPackage",
    "NoSuchTensor",
    "NotACheckpoint",
    "OutputBusy",
    "OutputExists",
    "OutputFailed",
    "Parts",
    "PlanBroken",
    "RankFailed",
    "SaveGone",
    "StoreFailed",
    "UnsafePath",
    "UnsafePickle",
    "UnsupportedLayout",
    "UnsupportedSystem",
    "WitnessMismatch",
    "WrongNames",
    "ZeroConsolidateError",
    "at",
    "reason",
]
