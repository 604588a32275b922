"""Turn a DeepSpeed ZeRO checkpoint into a model directory that loads.

>>> import zeroconsolidate
>>> zeroconsolidate.inspect("tests/fixtures/z3_bf16/checkpoint").counts["trainable"] > 0
True

Callers need only the names in `__all__`. Inside there is a subpackage for each step; CONTRIBUTING.md says which imports
which:

    archive        files -> where their tensors are, without running pickled code
    catalog        contents of the files of all ranks -> facts that agree
    opening        paths -> one checkpoint to plan from, complete or with substitutes
    naming         stored names -> the names that a loader expects
    adapters       PEFT: find, export, merge
    transforms     tensors and config -> other tensors and config: averages, quantization, your own
    plan           facts -> for each tensor of the output, which bytes of which files
    run            recipes -> bytes, through a storage
    write          bytes -> files that are safe on disk before they get their final names
    outputs        a checkpoint and options -> a model directory, adapter or universal checkpoint, and the report
    mapping        a checkpoint -> names to tensors that are read when they are asked for
    saves          a run directory -> its saves, what each is good for, what can be removed
    audit          an output or a checkpoint -> what is wrong with it; two models -> how they differ
    answers        two models and texts -> how far their answers agree
    reports        a result -> a page in HTML
    loading        tensors of a checkpoint -> a module, an engine or an optimizer in memory
    api            the functions of `__all__`: they take paths and options, and call one step after the other
    options        every option, declared once
    integrations   transformers, PEFT, the hub, engines of DeepSpeed: in their own process or imported when needed
    errors         every error, in a tree
    training       beside a training: each save becomes a model, in a process of its own
    cli            command line -> calls of the functions, printed results, exit codes
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .answers.agreement import AnswersComparison, TextAgreement
    from .answers.compare import compare_answers
    from .api.converting import consolidate, consolidate_part, convert, estimate, finish_parts
    from .api.loading import load_into, load_into_engine, state_dict, to_torch_optimizer
    from .api.mapping import open_checkpoint
    from .api.pruning import prune
    from .api.reading import inspect, inspect_run
    from .api.universal import universal
    from .audit.compare import compare
    from .audit.comparison import ComparedSide, ComparedTensor, ModelComparison
    from .audit.figures import Figures
    from .audit.findings import Verification
    from .audit.verify import verify, verify_source
    from .errors import (
        BadIndex,
        BadOption,
        DamagedFile,
        Disagreement,
        MissingFiles,
        MissingPackage,
        NoSuchTensor,
        NotACheckpoint,
        OutputBusy,
        OutputExists,
        OutputFailed,
        PlanBroken,
        RankFailed,
        SaveGone,
        StoreFailed,
        UnsafePath,
        UnsafePickle,
        UnsupportedLayout,
        UnsupportedSystem,
        WitnessMismatch,
        WrongNames,
        ZeroConsolidateError,
    )
    from .loading.engine_report import EngineReport
    from .loading.report import LoadReport
    from .mapping.checkpoint import Checkpoint
    from .mapping.views import TensorView
    from .opening.info import CheckpointInfo, TensorInfo
    from .opening.losses import Loss
    from .opening.rescue_report import RescueReport
    from .opening.resume import Resume
    from .outputs.parts import PartReport
    from .outputs.report import Report
    from .plan.build import Cost
    from .reports.html import html_report
    from .saves.facts import RunInfo, SaveInfo
    from .saves.pruning import PrunedSave, Pruning
    from .training.background import BackgroundRun, consolidate_in_background
    from .training.callback import ConsolidateCallback
    from .training.watching import Watched, watch
    from .transforms.transform import Transform

__all__ = [
    "AnswersComparison",
    "BackgroundRun",
    "BadIndex",
    "BadOption",
    "Checkpoint",
    "CheckpointInfo",
    "ComparedSide",
    "ComparedTensor",
    "ConsolidateCallback",
    "Cost",
    "DamagedFile",
    "Disagreement",
    "EngineReport",
    "Figures",
    "LoadReport",
    "Loss",
    "MissingFiles",
    "MissingPackage",
    "ModelComparison",
    "NoSuchTensor",
    "NotACheckpoint",
    "OutputBusy",
    "OutputExists",
    "OutputFailed",
    "PartReport",
    "PlanBroken",
    "PrunedSave",
    "Pruning",
    "RankFailed",
    "Report",
    "RescueReport",
    "Resume",
    "RunInfo",
    "SaveGone",
    "SaveInfo",
    "StoreFailed",
    "TensorInfo",
    "TensorView",
    "TextAgreement",
    "Transform",
    "UnsafePath",
    "UnsafePickle",
    "UnsupportedLayout",
    "UnsupportedSystem",
    "Verification",
    "Watched",
    "WitnessMismatch",
    "WrongNames",
    "ZeroConsolidateError",
    "__version__",
    "compare",
    "compare_answers",
    "consolidate",
    "consolidate_in_background",
    "consolidate_part",
    "convert",
    "estimate",
    "finish_parts",
    "html_report",
    "inspect",
    "inspect_run",
    "load_into",
    "load_into_engine",
    "open_checkpoint",
    "prune",
    "state_dict",
    "to_torch_optimizer",
    "universal",
    "verify",
    "verify_source",
    "watch",
]

_HOMES = {
    "AnswersComparison": "answers.agreement",
    "BackgroundRun": "training.background",
    "BadIndex": "errors",
    "BadOption": "errors",
    "Checkpoint": "mapping.checkpoint",
    "CheckpointInfo": "opening.info",
    "ComparedSide": "audit.comparison",
    "ComparedTensor": "audit.comparison",
    "ConsolidateCallback": "training.callback",
    "Cost": "plan.build",
    "DamagedFile": "errors",
    "Disagreement": "errors",
    "EngineReport": "loading.engine_report",
    "Figures": "audit.figures",
    "LoadReport": "loading.report",
    "Loss": "opening.losses",
    "MissingFiles": "errors",
    "MissingPackage": "errors",
    "ModelComparison": "audit.comparison",
    "NoSuchTensor": "errors",
    "NotACheckpoint": "errors",
    "OutputBusy": "errors",
    "OutputExists": "errors",
    "OutputFailed": "errors",
    "PartReport": "outputs.parts",
    "PlanBroken": "errors",
    "PrunedSave": "saves.pruning",
    "Pruning": "saves.pruning",
    "RankFailed": "errors",
    "StoreFailed": "errors",
    "Report": "outputs.report",
    "RescueReport": "opening.rescue_report",
    "Resume": "opening.resume",
    "RunInfo": "saves.facts",
    "SaveGone": "errors",
    "SaveInfo": "saves.facts",
    "TensorInfo": "opening.info",
    "TensorView": "mapping.views",
    "Transform": "transforms.transform",
    "TextAgreement": "answers.agreement",
    "UnsafePath": "errors",
    "UnsafePickle": "errors",
    "UnsupportedLayout": "errors",
    "UnsupportedSystem": "errors",
    "Verification": "audit.findings",
    "Watched": "training.watching",
    "WitnessMismatch": "errors",
    "WrongNames": "errors",
    "ZeroConsolidateError": "errors",
    "compare": "audit.compare",
    "compare_answers": "answers.compare",
    "consolidate": "api.converting",
    "consolidate_in_background": "training.background",
    "consolidate_part": "api.converting",
    "convert": "api.converting",
    "estimate": "api.converting",
    "finish_parts": "api.converting",
    "html_report": "reports.html",
    "inspect": "api.reading",
    "inspect_run": "api.reading",
    "load_into": "api.loading",
    "load_into_engine": "api.loading",
    "open_checkpoint": "api.mapping",
    "prune": "api.pruning",
    "state_dict": "api.loading",
    "to_torch_optimizer": "api.loading",
    "universal": "api.universal",
    "verify": "audit.verify",
    "verify_source": "audit.verify",
    "watch": "training.watching",
}
"""Where each public name is defined. It is imported when it is first used: `--help` needs none of them."""


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used. Raises AttributeError for any other, and on Windows
    UnsupportedSystem."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOMES[name] != "errors":
        import_module(f"{__name__}.integrations.packages").refuse_windows()
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    """Public names only: the subpackages are no part of the interface."""
    return sorted(__all__)
