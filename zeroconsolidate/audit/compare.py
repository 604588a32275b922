"""The function that compares two models: it takes two paths, and gives a `ModelComparison`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..archive.discover import natural
from ..options import CompareOptions, takes
from ..outputs.gate.examine import examine
from ..run.inputs import Inputs
from ..run.statistics import Statistics
from .comparison import ComparedSide, ModelComparison
from .figures import figures_of
from .kinds import KINDS
from .layouts import in_one_layout
from .measure import measure, measure_alone, stored_dtype, total, work_bytes
from .pairing import pair
from .probes import probe
from .sides import find_side, read_side
from .suspicions import suspicions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..options import Path, Progress
    from ..options.values import Tolerance
    from .comparison import ComparedTensor
    from .sides import Side


@takes(CompareOptions)
def compare(a: Path, b: Path, options: CompareOptions) -> ModelComparison:
    """Compare two models, tensor by tensor.

    Each is a checkpoint, a model directory, an adapter, or the id of a model on the hub. Names are matched as they are
    matched for an output: a wrapper's prefix makes no difference. Tensors of different dtypes are compared by value.
    The models are read block by block, so memory does not depend on their size.

    Parameters
    ----------
    a : str or os.PathLike
        The first: of a run directory, its newest complete checkpoint.
    b : str or os.PathLike
        The second.

    Returns
    -------
    ModelComparison
        Which tensors exist where, how much each differs, by kind and layer too, and what is suspicious.

    Raises
    ------
    NotACheckpoint
        If there is nothing at a path.
    BadOption
        If the base model of an adapter is needed, and not given.
    ZeroConsolidateError
        What `open_checkpoint` raises, and for adapters what `consolidate` raises.

    Notes
    -----
    Adapters are compared with each other if both sides have one and `base` is not given. Otherwise an adapter is
    compared as the model it is merged into.

    Examples
    --------
    >>> import zeroconsolidate
    >>> models = "tests/fixtures/models"
    >>> found = zeroconsolidate.compare(f"{models}/_bases/llama", f"{models}/llm_untied_z3/checkpoint")
    >>> found.equal, len(found.beyond) > 0
    (False, True)
    """
    began = time.monotonic()
    options.doing("reading metadata")
    first, second = (find_side(path, files_read=options.files_read) for path in (a, b))
    options.doing("checking names")
    left = read_side(first, second, base=options.base_directory)
    right = read_side(second, first, base=options.base_directory)
    pairing = pair(left, right)
    described = _described(left), _described(right)
    if pairing.only_a and pairing.only_b:
        left, right = in_one_layout(left, right)
        pairing = pair(left, right)
    options.doing("comparing values")
    reading = _Reading(work_bytes(left, right, pairing), options.progress)
    with Inputs() as inputs:
        measured = measure(left, right, pairing, inputs, reading.advance)
        tensors = [each.tensor for each in measured]
        alone = (
            measure_alone(left, pairing.only_a, inputs, reading.advance),
            measure_alone(right, pairing.only_b, inputs, reading.advance),
        )
        options.doing("checking what is suspicious")
        base = options.base_directory or left.merged_into or right.merged_into
        probed = probe(left, right, tensors, inputs, reading.advance, base=base)
    shapes_differ = any(tensor.state == "shape" for tensor in tensors)
    names_differ = bool(pairing.change or pairing.only_a or pairing.only_b or shapes_differ)
    names_differ |= left.hides_names or right.hides_names
    layers = total(measured, lambda tensor: tensor.layer)
    kinds = total(measured, lambda tensor: tensor.kind)
    return ModelComparison(
        a=described[0],
        b=described[1],
        names=pairing.change,
        tolerance=None if options.tolerance is None else str(options.tolerance),
        suspicions=(
            *(_not_loading(left, right, base=options.base_directory) if names_differ else ()),
            *suspicions(left, right, pairing, tensors, alone, probed),
        ),
        only_a=pairing.only_a,
        only_b=pairing.only_b,
        beyond=tuple(tensor.name for tensor in tensors if _is_beyond(tensor, options.allowed)),
        whole=total(measured, lambda _: "").get("", figures_of(Statistics())),
        kinds={kind: kinds[kind] for kind in KINDS if kind in kinds},
        layers={name: layers[name] for name in natural(list(layers))},
        tensors=tuple(tensors),
        notes=(*left.notes, *right.notes),
        bytes_read=reading.bytes_read,
        seconds=time.monotonic() - began,
    )


class _Reading:
    """Counts what is read, and reports it."""

    def __init__(self, total_bytes: int, progress: Progress | None) -> None:
        self.bytes_read = 0
        self._total_bytes, self._progress = total_bytes, progress

    def advance(self, size_bytes: int) -> None:
        """So many bytes more have been read."""
        self.bytes_read += size_bytes
        if self._progress is not None:
            self._progress(min(self.bytes_read, self._total_bytes), self._total_bytes)


def _described(side: Side) -> ComparedSide:
    dtypes: dict[str, int] = {}
    sources = {id(source.recipe): source for source in side.tensors.values()}
    for source in sources.values():
        dtype = stored_dtype(source.recipe).torch_name
        dtypes[dtype] = dtypes.get(dtype, 0) + source.recipe.numel
    return ComparedSide(
        path=side.path, what=side.what, tensors=len(sources), parameters=sum(dtypes.values()), dtypes=dtypes
    )


def _not_loading(*sides: Side, base: str | None) -> Iterator[str]:
    """Why a program would not load all tensors of a model directory, as `verify` finds it."""
    for letter, side in zip("AB", sides, strict=True):
        if side.directory is not None:
            for finding in examine(side.directory, base=base, remember=True).findings:
                yield f"{letter} does not load as it is: {finding.text}"


def _is_beyond(tensor: ComparedTensor, allowed: Tolerance | None) -> bool:
    found = tensor.figures
    if tensor.state == "shape" or found is None or allowed is None:
        return not tensor.is_same
    if found.unlike or (found.changed and not found.largest):  # of integers too large for float64
        return True
    return (found.largest_relative if allowed.is_relative else found.largest) > allowed.most
