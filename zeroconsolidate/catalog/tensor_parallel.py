"""`universal_checkpoint_info` -> how each tensor is cut over tensor-parallel ranks.

AutoTP writes it, Megatron-DeepSpeed hands it to `save_checkpoint` as client state. The order of precedence is that
of `merge_tp_slices` in `deepspeed/checkpoint/ds_to_universal.py`: map, replicated, averaged, two sub-parameters,
sub-parameters, else concatenation along dimension 1 for row-parallel weights and dimension 0 for the rest; a
vocabulary is cut to its original size afterwards. Patterns match from the beginning of a name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..archive.printable import described
from ..errors import DamagedFile, Disagreement, UnsupportedLayout, at
from . import fields
from .rules import Affine, AffinePiece, Concatenated, Join, Rule, SubParameters

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .facts import Shape

AFFINE_VERSION = 1
KEYS = frozenset(
    "universal_checkpoint_version original_vocab_size padded_vocab_size vocabulary_parameter_patterns "
    "parameter_to_average_patterns tp_replicated_parameter_patterns pipeline_replicated_parameter_patterns "
    "parameter_with_row_parallelism_patterns parameter_with_2_sub_params_cat_dim_0 parameter_with_sub_params "
    "sub_param_shard_widths autotp_unsupported_parameter_patterns affine_map expert_parameter_patterns "
    "ds_autoep_layers".split()
)
"""Constants of `deepspeed/checkpoint/constants.py`."""

_RANK = re.compile(r"[0-9]{1,7}")
_PIECE = re.compile(r"\\[^A-Za-z0-9]|\\d[+*]?|\.[+*]?|\[[A-Za-z0-9]+\]|[A-Za-z0-9_\-: /]")
MAX_WILDCARDS = 2
"""Patterns come from the file. With few wildcards, matching is quick for any name; a pattern with many can take
forever."""

MAX_SUB_PARAMETERS = 1 << 12
"""A tensor of more sub-parameters is refused; query, key and value are three."""


def joins(
    info: Mapping[str, Any], names: Iterable[str], shapes: Mapping[str, Sequence[Shape]], tp: int
) -> dict[str, Join]:
    """How each of `names` is joined over `tp` ranks; `shapes` has the parts' shapes by rank.

    Raises UnsupportedLayout for what the information declares as not mergeable, or does not cover.
    """
    for key in info:
        if key not in KEYS:
            raise UnsupportedLayout(f"'universal_checkpoint_info' has the key {str(key)[:80]!r}, which is not known")
    rules = _Rules(info, tp)
    found = {}
    for name in names:
        with at(name):
            found[name] = rules.of(name, shapes[name])
    return found


def is_terse(info: Mapping[str, Any]) -> bool:
    """Whether the lists are of a version before 0.3: AutoTP then did not list embeddings and norms as replicated."""
    version = info.get("universal_checkpoint_version", 0.0)
    return not isinstance(version, (int, float)) or version < 0.3


def spares(info: Mapping[str, Any], names: Iterable[str]) -> set[str]:
    """Names for which the training code says that only the first pipeline stage's copy counts (tied embeddings)."""
    patterns = _patterns(info, "pipeline_replicated_parameter_patterns")
    return {name for name in names if any(pattern.match(name) for pattern in patterns)}


class _Rules:
    def __init__(self, info: Mapping[str, Any], tp: int) -> None:
        self._tp = tp
        self._replicated = _patterns(info, "tp_replicated_parameter_patterns")
        self._averaged = _patterns(info, "parameter_to_average_patterns")
        self._rows = _patterns(info, "parameter_with_row_parallelism_patterns")
        self._vocabulary = _patterns(info, "vocabulary_parameter_patterns")
        self._pairs = _patterns(info, "parameter_with_2_sub_params_cat_dim_0")
        self._vocabulary_size = fields.optional(info, "original_vocab_size", int)
        version = info.get("universal_checkpoint_version", 0.0)
        self._has_widths = isinstance(version, (int, float)) and version >= 0.4
        self._widths = fields.field(info, "sub_param_shard_widths", dict, {})
        self._unsupported = {
            _compiled(pattern): reason
            for pattern, reason in fields.field(info, "autotp_unsupported_parameter_patterns", dict, {}).items()
        }
        self._sub_params = [
            (pattern, _compiled(pattern), entry)
            for entry in fields.field(info, "parameter_with_sub_params", list, [])
            for pattern in _sub_param_patterns(entry)
        ]
        affine = fields.field(info, "affine_map", dict, {})
        if affine and affine.get("version") not in (None, AFFINE_VERSION):
            raise UnsupportedLayout(
                f"the affine map has the version {described(affine.get('version'))}", expected=AFFINE_VERSION
            )
        self._affine = [(_compiled(p), entry) for p, entry in fields.field(affine, "params", dict, {}).items()]

    def of(self, name: str, shapes: Sequence[Shape]) -> Join:
        for pattern, reason in self._unsupported.items():
            if pattern.match(name):
                raise UnsupportedLayout(f"DeepSpeed says this tensor cannot be merged: {described(reason)}")
        vocabulary = any(pattern.match(name) for pattern in self._vocabulary)
        if vocabulary and self._vocabulary_size is None:
            raise DamagedFile("the tensor is a vocabulary's, and 'original_vocab_size' is missing")
        rule = self._rule(name, shapes)
        default = Concatenated(0) if rule is None else rule
        rows = self._vocabulary_size if vocabulary else None
        return Join(rule=default, rows=rows, is_default=rule is None and not vocabulary)

    def _rule(self, name: str, shapes: Sequence[Shape]) -> Rule | Concatenated | Affine | None:
        """None: no list has the tensor, it is cut by rows."""
        for pattern, entry in self._affine:
            if pattern.match(name):
                return affine_of(entry, self._tp)
        if any(pattern.match(name) for pattern in self._replicated):
            return Rule.REPLICATED
        if any(pattern.match(name) for pattern in self._averaged):
            return Rule.AVERAGED
        if any(pattern.match(name) for pattern in self._pairs):
            half = tuple(_half(shape) for shape in shapes)
            return Concatenated(0, (half, half))
        for text, pattern, entry in self._sub_params:
            if pattern.match(name):
                return self._sub_parameters(text, entry, shapes)
        if any(pattern.match(name) for pattern in self._rows):
            return Concatenated(1)
        return self._bias_of_sub_parameters(name, shapes)

    def _bias_of_sub_parameters(self, name: str, shapes: Sequence[Shape]) -> Concatenated | None:
        """A bias is cut as the rows of its weight. Before version 0.4 only the weight is listed, and DeepSpeed's own
        merge puts the bias together wrongly."""
        weight = name.removesuffix("bias") + "weight"
        for text, pattern, entry in self._sub_params if name.endswith(".bias") else ():
            if pattern.match(weight) and entry.get("partition_dim", 0) == 0 and all(len(s) == 1 for s in shapes):
                view = entry.get("shape")
                if isinstance(view, (list, tuple)) and view:
                    return self._sub_parameters(text, {**entry, "shape": [view[0]], "partition_dim": 0}, shapes)
        return None

    def _sub_parameters(self, pattern: str, entry: Mapping[str, Any], shapes: Sequence[Shape]) -> Concatenated:
        dim = fields.field(entry, "partition_dim", int, 0)
        view = entry.get("shape")
        if not isinstance(view, (list, tuple)) or not 0 <= dim < len(view):
            raise DamagedFile("'parameter_with_sub_params' has no usable shape", found=described(view))
        if any(dim >= len(shape) for shape in shapes):
            raise Disagreement(f"a part has no dimension {dim}", found=", ".join(map(str, shapes)))
        totals = view[dim]
        whole = sum(shape[dim] for shape in shapes)
        if isinstance(totals, int):  # before version 0.4: the number of equal sub-parameters
            if not 1 <= totals <= MAX_SUB_PARAMETERS or whole % totals:
                raise Disagreement(f"{totals} equal sub-parameters do not make {whole} rows")
            totals = (whole // totals,) * totals
        if not fields.are_counts(totals):
            raise DamagedFile("the sub-parameters' sizes are not usable", found=described(totals))
        recorded = self._widths.get(pattern)
        if recorded is None:
            if self._has_widths:
                raise UnsupportedLayout("'sub_param_shard_widths' does not say how the sub-parameters are cut")
            if any(total % self._tp for total in totals):
                raise UnsupportedLayout(
                    f"sub-parameters of {', '.join(map(str, totals))} rows are cut unevenly over {self._tp} ranks, and "
                    "nothing says how ('sub_param_shard_widths' came with version 0.4)"
                )
            recorded = [[total // self._tp] * self._tp for total in totals]
        if not isinstance(recorded, (list, tuple)):
            raise DamagedFile("the sub-parameters' widths are not usable", found=described(recorded))
        widths = tuple(_ints(of_ranks) for of_ranks in recorded)
        if [sum(of_ranks) for of_ranks in widths] != list(totals):
            raise Disagreement(f"the sub-parameters' widths {described(recorded)} do not add up to {described(totals)}")
        sizes = [sum(_ints(n)) if isinstance(n, (list, tuple)) else n for n in view]
        _ints([n for n in sizes if n != -1])
        shape = tuple(sizes)  # -1 stands for what remains
        same_dims = all(len(part) == len(shape) for part in shapes)
        declared = SubParameters(
            patterns=tuple(map(str, entry.get("patterns", ()))),
            shape=tuple(
                tuple(n) if isinstance(n, (list, tuple)) else n for n in (*view[:dim], totals, *view[dim + 1 :])
            ),
            dim=dim,
        )
        return Concatenated(dim, widths, None if same_dims else shape, declared)


def affine_of(entry: object, parts: int) -> Affine:
    """`{logical_shape, ranks: {rank: {shard_shape, pieces}}}` as facts. Raises DamagedFile."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("ranks"), Mapping):
        raise DamagedFile("an affine map is not a mapping with 'ranks'")
    ranks = {
        int(rank): value
        for rank, value in entry["ranks"].items()
        if type(rank) is int or (isinstance(rank, str) and _RANK.fullmatch(rank))
    }
    if sorted(ranks) != list(range(parts)):
        raise Disagreement(f"the affine map is not of {parts} ranks", found=sorted(ranks))
    return Affine(
        shape=_ints(entry.get("logical_shape")),
        pieces=tuple(tuple(_piece(piece) for piece in _pieces(ranks[rank])) for rank in range(parts)),
    )


def _pieces(rank: object) -> list[Any]:
    pieces = rank.get("pieces") if isinstance(rank, Mapping) else None
    if not isinstance(pieces, (list, tuple)):
        raise DamagedFile("an affine map has a rank without pieces")
    return list(pieces)


def _piece(piece: object) -> AffinePiece:
    if not isinstance(piece, Mapping):
        raise DamagedFile("a piece of an affine map is not a mapping")
    scale = piece.get("scale")
    if scale is not None and scale != 1:
        raise UnsupportedLayout(
            f"a piece of the tensor is scaled by {described(scale)}, which cannot be undone exactly"
        )
    shape, source, dest = _ints(piece.get("shape")), _view(piece.get("source")), _view(piece.get("dest"))
    if not len(shape) == len(source[1]) == len(dest[1]):
        raise DamagedFile("a piece of an affine map has strides for another number of dimensions")
    return AffinePiece(shape, source, dest)


def _view(value: object) -> tuple[int, Shape]:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or type(value[0]) is not int or value[0] < 0:
        raise DamagedFile("a piece of an affine map is not (offset, strides)", found=described(value))
    return value[0], _ints(value[1])


def _ints(value: object) -> Shape:
    if not fields.are_counts(value):
        raise DamagedFile("a shape or a list of sizes is unusable", found=described(value))
    return tuple(value)


def _half(shape: Shape) -> int:
    if not shape or shape[0] % 2:
        raise Disagreement("a part does not divide into two sub-parameters", found=f"the shape {shape}")
    return shape[0] // 2


def _patterns(info: Mapping[str, Any], key: str) -> list[re.Pattern[str]]:
    return [_compiled(pattern) for pattern in fields.field(info, key, list, [])]


def _sub_param_patterns(entry: object) -> list[Any]:
    patterns = entry.get("patterns") if isinstance(entry, Mapping) else None
    if not isinstance(patterns, (list, tuple)):
        raise DamagedFile("'parameter_with_sub_params' has an entry without patterns")
    return list(patterns)


def _compiled(pattern: object) -> re.Pattern[str]:
    """A pattern of letters, escaped characters, classes and a few wildcards; UnsupportedLayout for any other."""
    if not isinstance(pattern, str):
        raise DamagedFile("a pattern is not text", found=described(pattern))
    if not is_tame(pattern):
        raise UnsupportedLayout("a pattern has an unknown type", found=described(pattern))
    return re.compile(pattern)


def is_tame(pattern: str) -> bool:
    """Whether a pattern is made of letters, escaped characters, classes and at most MAX_WILDCARDS repetitions."""
    body = pattern.removeprefix("^").removesuffix("$") if not pattern.endswith(r"\$") else pattern.removeprefix("^")
    pieces = _PIECE.findall(body)
    wildcards = sum(piece[-1] in "+*" and piece[0] in ".\\" and piece[:-1] in (".", r"\d") for piece in pieces)
    return "".join(pieces) == body and wildcards <= MAX_WILDCARDS
