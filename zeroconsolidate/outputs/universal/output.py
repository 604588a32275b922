"""A checkpoint -> a universal checkpoint: a directory from which DeepSpeed resumes at other world sizes and stages.

    latest_universal                                        the name of the folder below
    trainer_state.json, rng_state_0.pth, …                  of the program that saved (`resumed_files.py`)
    global_step500_universal/
      mp_rank_00_model_states.pt                            the model file, under the name that stages 0 to 2 look for,
      zero_pp_rank_0_mp_rank_00_model_states.pt             and that which stage 3 looks for
      zero/optimizer_state.pt                               param groups, loss scaler, … (`universal_state.py`)
      zero/model.embed.weight/fp32.pt                       a parameter's master weight,
      zero/model.embed.weight/exp_avg.pt                    each state that the optimizer keeps of it,
      zero/model.embed.weight/step.pt                       and the step
      …

`universal_fragments.py` says what is in a fragment, which every stage reads; step.pt is the bare value. Model-parallel
ranks have a model file each. Layers and experts have files of their own, which DeepSpeed's loader does not read, but
they have the frozen parameters and buffers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...archive.located import LocatedTensor
from ...archive.names import FileKind, file_name, parse
from ...archive.phrases import counted, listed
from ...archive.places import size_bytes
from ...errors import ZeroConsolidateError
from ...opening.open import open_catalog
from ...plan.build import ModelPlan
from ...plan.congruent import fit
from ...plan.fragment import FragmentPlan
from ...plan.sources import padding_bytes, replicas
from ...plan.states import MASTERS, state_replicas, states, steps
from ...plan.whole_file import WholeFilePlan, whole_file
from ..gate.finding import Finding, GateResult, Kind
from ..output import Output, SideFiles
from .fragments import folders, fragments
from .refusals import refuse_layout, refuse_lost, refuse_names
from .resumed_files import files_beside, tag_of_copy
from .state import differing, optimizer_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ...archive.names import FileName
    from ...catalog.facts import Catalog
    from ...catalog.state import Step
    from ...opening.opened import Opened
    from ...opening.rescue_report import RescueReport
    from ...plan.congruent import Sharing
    from ...plan.joins import Replica
    from ...plan.layout import FilePlan
    from ...plan.sources import Source
    from ...run.inputs import Inputs

LATEST = "latest_universal"
"""What `load_checkpoint` reads with `load_universal`."""
_STAGE_3_READS = ("exp_avg", "exp_avg_sq")
_MODEL_KINDS = (FileKind.MODEL, FileKind.PARTITIONED_MODEL, FileKind.LAYER, FileKind.EXPERT)


@dataclass(frozen=True, slots=True, kw_only=True)
class UniversalCheckpoint(Output):
    """A universal checkpoint."""

    folder: str
    """The tag."""
    small: Mapping[str, bytes]
    """Small files by name."""
    states: tuple[str, ...]
    """Names of what is written for each parameter, the master first."""
    resume: str
    """The line of Python that resumes, with `{path}` for the directory."""
    steps: Mapping[str, Step]
    """By folder of fragments."""

    def side_files(self, inputs: Inputs) -> SideFiles:
        """The optimizer's settings, and the name of the tag."""
        return SideFiles(copies={}, made=dict(self.small), notes=(), warnings=())

    def replicas(self, catalog: Catalog) -> list[Replica]:
        """States as well as masters."""
        return [*replicas(catalog), *state_replicas(catalog)]

    @property
    def has_preview(self) -> bool:
        """What can be known before values are copied the plan has found."""
        return False

    def examined(self, directory: str) -> GateResult:
        """Read it again as a universal checkpoint, which must hold every trained parameter of its model files.

        That each fragment has its planned tensor was seen when it was written (`write/check.py`).
        """
        try:
            found = sum(len(part.saved_masters) for part in open_catalog(directory, None).parts)
        except ZeroConsolidateError as error:
            return GateResult(findings=(Finding(kind=Kind.FILE, text=str(error)),))
        many = counted(found, "trained parameter")
        return GateResult(checked=(f"{many} with {', '.join(self.states)}: read again as a universal checkpoint",))

    def load_line(self, directory: str, _side_files: SideFiles) -> str:
        """That of the program that saved; what DeepSpeed's config must have stands beside it."""
        line = self.resume.format(path=json.dumps(directory, ensure_ascii=False))
        return f'{line}  # config: {{"checkpoint": {{"load_universal": true}}}}'

    @property
    def published_last(self) -> Sequence[str]:
        """DeepSpeed begins with the file that names the tag."""
        return (LATEST,)


def plan_universal(opened: Opened, sharing: Sharing | None = None) -> UniversalCheckpoint:
    """Plan the universal checkpoint of an ordinary one. `sharing`: what the disk can share, None to copy everything.

    Raises UnsupportedLayout for a layout that DeepSpeed's loader does not take, or that is not understood.
    """
    catalog = opened.catalog
    training = refuse_layout(catalog)
    by_state = states(catalog) if opened.rescued_states is None else opened.rescued_states
    step_of = steps(catalog)
    refuse_lost(catalog, by_state)
    folder = tag_of_copy(catalog.origin.tag)
    beside = files_beside(catalog)
    zero = f"{folder}/zero"
    masters = by_state[MASTERS]
    within = tuple(folders(catalog, masters))
    refuse_names((one.name for one in within), catalog.origin.optimizer_state)
    of_tensors = tuple(fragments(catalog, zero, within, by_state, step_of, sharing))
    files: list[FilePlan] = [*_model_files(catalog, folder), *of_tensors]
    files += [whole_file(name, path, size_bytes(path)) for name, path in beside.files.items()]
    state_file = optimizer_state(
        f"{zero}/optimizer_state.pt",
        training,
        catalog.origin,
        groups=len({group.index for group in catalog.groups}),
        step=next(iter(step_of.values()), None),
    )
    return UniversalCheckpoint(
        plan=_plan(files, sharing, padding_bytes(catalog)),
        dtype=next(iter(masters.values())).recipe.dtype,
        names="names as in the checkpoint",
        names_change="",
        ties=dict(catalog.ties),
        read_files=tuple(beside.files.values()),
        comparisons=(),
        from_base=0,
        left_behind=(),
        missing=(),
        notes=(*beside.notes, *_notes(opened)),
        warnings=(*_warnings(catalog, by_state), *_warnings_of_zeros(opened.report)),
        not_checked=(),
        folder=folder,
        small={f"{zero}/optimizer_state.pt": state_file, LATEST: folder.encode()},
        states=tuple(by_state),
        resume=beside.program.resume if beside.program else "engine.load_checkpoint({path})",
        steps={one.name: step_of[one.held[0]] for one in within},
    )


def _plan(files: Sequence[FilePlan], sharing: Sharing | None, padding_bytes: int) -> ModelPlan:
    """With `sharing`, if it is worth it for any fragment: then files that are copied whole are shared, too."""
    cloned_bytes = sum(file.shared_bytes for file in files if isinstance(file, FragmentPlan))
    shares = sharing if cloned_bytes else None
    if shares is not None:
        whole = [fit(tensor, shares) for file in files if isinstance(file, WholeFilePlan) for tensor in file.tensors]
        cloned_bytes += sum(found.shared_bytes for found in whole if found is not None)
    return ModelPlan(
        files=tuple(files),
        index=None,
        left_out=(),
        padding_bytes=padding_bytes,
        sharing=shares,
        cloned_bytes=cloned_bytes,
    )


def _model_files(catalog: Catalog, folder: str) -> Iterator[FilePlan]:
    """Copies of the model files: step, scheduler, what the program saved. The first is there under the name that other
    stages look for as well (`_get_ckpt_name` in `deepspeed/runtime/engine.py`), and under that of rank 0, if rank 0's
    is lost: stage 3 reads no other."""
    first: dict[int, int] = {}
    for saved in _partitioned(catalog):
        first[saved.mp_rank] = min(saved.dp_rank, first.get(saved.mp_rank, saved.dp_rank))
    for path in catalog.files:
        parsed = parse(file_name(path))
        if parsed is None or parsed[0] not in _MODEL_KINDS:
            continue
        kind, ranks = parsed
        if kind in (FileKind.LAYER, FileKind.EXPERT):
            yield whole_file(f"{folder}/{file_name(path)}", path, size_bytes(path))
            continue
        whole = f"mp_rank_{ranks.mp_rank:02d}_model_states.pt"
        own, of_rank_0 = f"zero_pp_rank_{ranks.dp_rank}_{whole}", f"zero_pp_rank_0_{whole}"
        names = [whole, own] if kind is FileKind.MODEL else [own]
        if kind is FileKind.PARTITIONED_MODEL and ranks.dp_rank == first[ranks.mp_rank]:
            names = [own, whole] if own == of_rank_0 else [of_rank_0, own, whole]
        for name in names:
            yield whole_file(f"{folder}/{name}", path, size_bytes(path))


def _partitioned(catalog: Catalog) -> Iterator[FileName]:
    """What the names of the model files of stage 3 say."""
    for path in catalog.files:
        parsed = parse(file_name(path))
        if parsed is not None and parsed[0] is FileKind.PARTITIONED_MODEL:
            yield parsed[1]


def _notes(opened: Opened) -> Iterator[str]:
    catalog = opened.catalog
    first = min((name.dp_rank for name in _partitioned(catalog) if not name.mp_rank), default=0)
    if first:
        yield f"step, scheduler and client state are rank {first}'s: rank 0's model file is lost"
    others = [source.role for source in opened.stored.values() if source.role != "trainable"]
    if others:
        held = [counted(others.count(role), noun) for role, noun in _OTHERS.items() if role in others]
        yield (
            f"{' and '.join(held)} are in the model files only: DeepSpeed reads no module from a universal checkpoint, "
            "they stay as the program has made them"
        )
    if catalog.training is not None and not catalog.training.param_groups:
        yield "'elastic_checkpoint' saves no settings of param groups: they stay as the program has made them"


def _warnings_of_zeros(report: RescueReport | None) -> Iterator[str]:
    """Without `exp_avg_sq`, Adam divides by next to nothing; the correction of its beginning is over by then."""
    zeros = [state for state, found in report.states.items() if found.by_source["zeros"]] if report is not None else []
    if zeros:
        yield (
            f"{listed(zeros, 4)}: lost values are zeros, so that Adam's next steps are too long there, with the usual "
            "betas three times at first: --fill CHECKPOINT takes them from an earlier save"
        )


_OTHERS = {"frozen": "frozen parameter", "buffer": "buffer"}


def _warnings(catalog: Catalog, by_state: Mapping[str, Mapping[str, Source]]) -> Iterator[str]:
    masters = by_state[MASTERS]
    if len(by_state) == 1:
        yield (
            "the checkpoint has no optimizer state of any element: if its optimizer keeps some, such as moments, "
            "whoever resumes begins without it"
        )
    lacking = [state for state in _STAGE_3_READS if by_state.get(state, {}).keys() != masters.keys()]
    if lacking:
        yield f"not every parameter has {' and '.join(lacking)}: DeepSpeed cannot resume from it at stage 3"
    is_tensor = isinstance(next(iter(steps(catalog).values()), None), LocatedTensor)
    many = len({group.index for group in catalog.groups})
    if many > 1 and is_tensor:
        yield (
            f"{counted(many, 'flat group')}: at stage 3 DeepSpeed loads one step for all of them, which "
            "each of them then counts up; give each its own after loading, as docs/universal.md shows"
        )
    if catalog.training is not None and catalog.training.is_shuffled:
        yield (
            "resume without 'round_robin_gradients', which the run had: with it DeepSpeed's loader puts values into "
            "the places of other parameters"
        )
    apart = differing(catalog.training.param_groups) if catalog.training is not None else []
    if apart:
        yield (
            f"param groups differ in {listed(apart, 4)}: at stage 3 DeepSpeed gives the first group's settings to all, "
            "so these were left out there and stay as the program has set them"
        )
