"""What `universal_checkpoint_info` says of a tensor that is cut over tensor-parallel ranks, and what it leaves open."""

from __future__ import annotations

from typing import Any

import pytest
from catalogs import half, model, of_files, optimizer, tensor

from zeroconsolidate.archive.raw import SwapFile
from zeroconsolidate.catalog.rules import Affine, AffinePiece, Concatenated, Join, Rule, SubParameters
from zeroconsolidate.catalog.tensor_parallel import is_tame, is_terse, joins, spares
from zeroconsolidate.errors import DamagedFile, Disagreement, MissingFiles, UnsupportedLayout
from zeroconsolidate.plan.sources import replicas, sources

WHOLE = [(3, 4), (3, 4)]


def join(shapes: list[tuple[int, ...]] = WHOLE, name: str = "m.w", **info: Any) -> Join:
    """How two parts of these shapes are joined."""
    return joins({"universal_checkpoint_version": 0.4} | info, [name], {name: shapes}, 2)[name]


def declared(*shape: Any) -> SubParameters:
    """What :func:`sub_params` says, as a fact."""
    return SubParameters(patterns=(r"m\.w", r"m\.qkv\.weight"), shape=shape, dim=0)


def sub_params(shape: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"patterns": [r"m\.w", r"m\.qkv\.weight"], "partition_dim": 0, "shape": shape} | more]


@pytest.mark.parametrize(
    ("info", "rule"),
    [
        ({}, Concatenated(0)),
        ({"tp_replicated_parameter_patterns": [r"m\.w"]}, Rule.REPLICATED),
        ({"parameter_to_average_patterns": [r"m\..*"]}, Rule.AVERAGED),
        ({"parameter_with_row_parallelism_patterns": [r"^m\.w$"]}, Concatenated(1)),
        # Patterns match from the beginning, as `re.match` does in ds_to_universal.
        ({"parameter_with_row_parallelism_patterns": ["w"]}, Concatenated(0)),
        ({"parameter_with_row_parallelism_patterns": ["m"]}, Concatenated(1)),
    ],
)
def test_the_lists(info: dict[str, Any], rule: object):
    assert join(**info) == Join(rule=rule, is_default=not info or rule == Concatenated(0))  # type: ignore[arg-type]


def test_the_order_of_precedence_is_that_of_ds_to_universal():
    """All lists have the tensor; one after the other is taken away."""
    pieces = [{"shape": [4, 4], "source": [start, [4, 1]], "dest": [0, [4, 1]]} for start in (0, 16)]
    entry = {"logical_shape": [8, 4], "ranks": {rank: {"pieces": [piece]} for rank, piece in enumerate(pieces)}}
    lists: dict[str, Any] = {
        "affine_map": {"version": 1, "params": {r"m\.w": entry}},
        "tp_replicated_parameter_patterns": ["m"],
        "parameter_to_average_patterns": ["m"],
        "parameter_with_2_sub_params_cat_dim_0": ["m"],
        "parameter_with_sub_params": sub_params([(2, 6), 4]),
        "parameter_with_row_parallelism_patterns": ["m"],
    }
    rules = []
    for taken_away in range(len(lists)):
        left = dict(list(lists.items())[taken_away:])
        rules.append(join([(4, 4), (4, 4)], sub_param_shard_widths={r"m\.w": [[1, 1], [3, 3]]}, **left).rule)
    assert rules == [
        Affine((8, 4), tuple((AffinePiece((4, 4), (start, (4, 1)), (0, (4, 1))),) for start in (0, 16))),
        Rule.REPLICATED,
        Rule.AVERAGED,
        Concatenated(0, ((2, 2), (2, 2))),
        Concatenated(0, ((1, 1), (3, 3)), declared=declared((2, 6), 4)),
        Concatenated(1),
    ]


def test_a_vocabulary_is_cut_to_its_size():
    info = {"vocabulary_parameter_patterns": ["m"], "original_vocab_size": 5}
    assert join(**info) == Join(rule=Concatenated(0), rows=5)
    with pytest.raises(DamagedFile, match=r"a vocabulary's, and 'original_vocab_size' is missing \(at m.w\)"):
        join(vocabulary_parameter_patterns=["m"])


def test_what_deepspeed_says_cannot_be_merged():
    unsupported = {r"m\.w": "strided by heads"}
    with pytest.raises(UnsupportedLayout, match=r"cannot be merged: 'strided by heads' \(at m.w\)"):
        join(autotp_unsupported_parameter_patterns=unsupported)
    assert join(name="n.w", autotp_unsupported_parameter_patterns=unsupported).rule == Concatenated(0)


def test_a_key_that_is_not_known_may_be_about_any_tensor():
    with pytest.raises(UnsupportedLayout, match="has the key 'parameter_with_column_shuffle', which is not known"):
        join(parameter_with_column_shuffle=["x"])


# --- sub-parameters ---------------------------------------------------------------------------------------------------


def test_sub_parameters_are_cut_each_for_itself():
    shapes = [(3, 4), (3, 4)]
    assert join(
        shapes, parameter_with_sub_params=sub_params([(2, 4), 4]), sub_param_shard_widths={r"m\.w": [[1, 1], [2, 2]]}
    ).rule == Concatenated(0, ((1, 1), (2, 2)), declared=declared((2, 4), 4))


def test_before_version_0_4_widths_are_equal_parts():
    old = {"universal_checkpoint_version": 0.3}
    found = join(parameter_with_sub_params=sub_params([(2, 4), 4]), **old).rule
    assert found == Concatenated(0, ((1, 1), (2, 2)), declared=declared((2, 4), 4))
    # A number stands for so many equal sub-parameters.
    found = join(parameter_with_sub_params=sub_params([3, 4]), **old).rule
    assert found == Concatenated(0, ((1, 1),) * 3, declared=declared((2, 2, 2), 4))


def test_a_view_that_counts_otherwise_than_the_parts():
    info = {"parameter_with_sub_params": sub_params([(2, 4), 2, -1]), "universal_checkpoint_version": 0.3}
    assert join(**info).rule == Concatenated(0, ((1, 1), (2, 2)), (6, 2, -1), declared((2, 4), 2, -1))


def test_the_bias_of_sub_parameters_is_cut_as_its_weight():
    old = {"universal_checkpoint_version": 0.3, "parameter_with_sub_params": sub_params([(2, 4), -1])}
    found = join([(3,), (3,)], "m.qkv.bias", **old).rule
    assert found == Concatenated(0, ((1, 1), (2, 2)), declared=declared((2, 4)))
    # Not what is no bias of a listed weight, and not where columns are cut.
    assert join([(3,), (3,)], "m.other.bias", **old) == Join(rule=Concatenated(0), is_default=True)
    columns = sub_params([-1, (2, 4)], partition_dim=1)
    assert join([(3,), (3,)], "m.qkv.bias", **(old | {"parameter_with_sub_params": columns})).is_default
    shapeless = sub_params(None)
    assert join([(3,), (3,)], "m.qkv.bias", **(old | {"parameter_with_sub_params": shapeless})).is_default


@pytest.mark.parametrize(
    ("shape", "more", "info", "error", "message"),
    [
        (7, {}, {}, DamagedFile, "has no usable shape; got 7"),
        ([6, 4], {"partition_dim": 2}, {}, DamagedFile, "has no usable shape"),
        ([6, 4, (2, 4)], {"partition_dim": 2}, {}, Disagreement, "a part has no dimension 2"),
        ([4, 4], {}, {}, Disagreement, "4 equal sub-parameters do not make 6 rows"),
        ([(2, "4"), 4], {}, {}, DamagedFile, "the sub-parameters' sizes are not usable"),
        ([(2, 4), 4], {}, {}, UnsupportedLayout, "'sub_param_shard_widths' does not say how"),
        ([(1, 5), 4], {}, {"universal_checkpoint_version": 0.3}, UnsupportedLayout, "cut unevenly over 2 ranks"),
        ([(2, 4), 4], {}, {"sub_param_shard_widths": {r"m\.w": 7}}, DamagedFile, "widths are not usable; got 7"),
        ([(2, 4), 4], {}, {"sub_param_shard_widths": {r"m\.w": [[2, 2], [2, 2]]}}, Disagreement, "do not add up to"),
        ([(2, 4), 4], {"patterns": 7}, {}, DamagedFile, "has an entry without patterns"),
    ],
)  # fmt: skip
def test_sub_parameters_that_make_no_sense(
    shape: Any, more: dict[str, Any], info: dict[str, Any], error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        join(parameter_with_sub_params=sub_params(shape, **more), **info)


def test_a_part_that_does_not_divide_in_two():
    with pytest.raises(Disagreement, match=r"does not divide into two sub-parameters; got the shape \(3, 4\)"):
        join(parameter_with_2_sub_params_cat_dim_0=["m"])


# --- affine maps ------------------------------------------------------------------------------------------------------

PIECE = {"shape": [3, 4], "source": [0, [4, 1]], "dest": [0, [4, 1]]}


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        (7, DamagedFile, "an affine map is not a mapping with 'ranks'"),
        ({"logical_shape": [6, 4]}, DamagedFile, "an affine map is not a mapping with 'ranks'"),
        ({"ranks": {0: {}}}, Disagreement, r"the affine map is not of 2 ranks; got \[0\]"),
        ({"logical_shape": [6, 4], "ranks": {0: 7, 1: 7}}, DamagedFile, "has a rank without pieces"),
        ({"logical_shape": [6, 4], "ranks": {0: {"pieces": [7]}, 1: {}}}, DamagedFile, "a piece .* is not a mapping"),
        ({"logical_shape": 7, "ranks": {0: {}, 1: {}}}, DamagedFile, "a list of sizes is unusable; got 7"),
        ({"logical_shape": [6, 4], "ranks": {0: {"pieces": [PIECE | {"scale": 0.5}]}, 1: {}}},
         UnsupportedLayout, "scaled by 0.5, which cannot be undone exactly"),
        ({"logical_shape": [6, 4], "ranks": {0: {"pieces": [PIECE | {"source": 7}]}, 1: {}}},
         DamagedFile, r"is not \(offset, strides\); got 7"),
        ({"logical_shape": [6, 4], "ranks": {0: {"pieces": [PIECE | {"source": [-1, [4, 1]]}]}, 1: {}}},
         DamagedFile, r"is not \(offset, strides\)"),
        ({"logical_shape": [6, 4], "ranks": {0: {"pieces": [PIECE | {"dest": [0, [4]]}]}, 1: {}}},
         DamagedFile, "strides for another number of dimensions"),
    ],
)  # fmt: skip
def test_maps_that_make_no_sense(entry: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        join(affine_map={"version": 1, "params": {"m": entry}})


def test_a_map_of_another_version():
    with pytest.raises(UnsupportedLayout, match="the affine map has the version 2; expected 1"):
        join(affine_map={"version": 2, "params": {"m": {}}})


def test_a_map_of_other_tensors_does_not_matter():
    assert join(affine_map={"version": 1, "params": {r"n\.w": {}}}).rule == Concatenated(0)


def test_a_scale_of_one_is_none():
    entry = {"logical_shape": [3, 4], "ranks": {rank: {"pieces": [PIECE | {"scale": 1.0}]} for rank in (0, 1)}}
    assert isinstance(join(affine_map={"params": {"m": entry}}).rule, Affine)


# --- patterns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "tame"),
    [
        ("m.w", True),
        (r"^layers\.\d+\.attention\..*$", True),
        (r"cost\$", True),
        ("[ab]x", True),
        ("(m)", False),
        ("a+", False),
        (r"\w", False),
        (".*.*.*", False),
    ],
)
def test_patterns_that_are_tried_on_names(pattern: str, tame: bool):
    assert is_tame(pattern) is tame
    if not tame:
        with pytest.raises(UnsupportedLayout, match="a pattern has an unknown type"):
            join(tp_replicated_parameter_patterns=[pattern])


def test_a_pattern_that_is_no_text():
    with pytest.raises(DamagedFile, match="a pattern is not text; got 7"):
        join(tp_replicated_parameter_patterns=[7])


def test_which_copies_do_not_count():
    info = {"pipeline_replicated_parameter_patterns": [r"embed\..*", "b"]}
    assert spares(info, ["embed.w", "a", "b", "x.embed.w"]) == {"embed.w", "b"}
    assert spares({}, ["a"]) == set()


@pytest.mark.parametrize(("version", "terse"), [(0.2, True), (0.3, False), ("x", True), (None, True)])
def test_old_lists_do_not_name_all_that_is_replicated(version: Any, terse: bool):
    assert is_terse({} if version is None else {"universal_checkpoint_version": version}) is terse


# --- the ranks together -----------------------------------------------------------------------------------------------


def ranks(
    *infos: dict[str, Any] | None,
    shapes: tuple[dict[str, tuple[int, ...]], ...] | None = None,
    swaps: tuple[SwapFile, ...] = (),
) -> Any:
    """Two tensor-parallel ranks of one data-parallel rank, at stage 1."""
    contents = {}
    for mp, info in enumerate(infos):
        held = (shapes or ({"a": (3, 2)},) * len(infos))[mp]
        told = {
            "module": {name: half(*shape, key=f"{name} {mp}") for name, shape in held.items()},
            "buffer_names": [],
            "param_shapes": [held],
            "dp_world_size": 1,
            "mp_world_size": len(infos),
        }
        contents[f"mp_rank_{mp:02d}_model_states.pt"] = model(
            **told, **({} if info is None else {"universal_checkpoint_info": info})
        )
        numel = sum(tensor(*shape).numel for shape in held.values())
        contents[f"zero_pp_rank_0_mp_rank_{mp:02d}_optim_states.pt"] = optimizer(
            single_partition_of_fp32_groups=[tensor(numel)], partition_count=[1]
        )
    return of_files(contents, swaps=swaps)


INFO = {"universal_checkpoint_version": 0.4}


def test_each_rank_is_a_part():
    found = ranks(INFO, INFO)
    assert [part.index for part in found.parts] == [0, 1]
    assert found.joins == {"a": Join(rule=Concatenated(0), is_default=True)}
    assert (found.origin.degrees.tp, found.doubts) == (2, ())


def test_what_no_list_of_an_old_version_has_is_doubtful():
    assert ranks({"universal_checkpoint_version": 0.2}, {"universal_checkpoint_version": 0.2}).doubts == ("a",)


def test_masters_on_nvme_of_split_models_are_refused():
    """Their folders are named by global ranks, and nothing tells which model-parallel rank that is."""
    swap = SwapFile(state=None, rank=1, first=0, last=0, path="x", size_bytes=24)
    with pytest.raises(UnsupportedLayout, match="swapped out to NVMe, and the model is split over model-parallel"):
        ranks(INFO, INFO, swaps=(swap,))


def test_without_information_nothing_can_be_joined():
    with pytest.raises(UnsupportedLayout, match="no 'universal_checkpoint_info' says how its tensors are put together"):
        ranks(None, None)


def test_ranks_must_say_the_same():
    with pytest.raises(Disagreement, match="'universal_checkpoint_info' differs from that of model-parallel rank 0"):
        ranks(INFO, INFO | {"tp_replicated_parameter_patterns": ["a"]})


def test_a_tensor_that_only_some_ranks_have():
    with pytest.raises(Disagreement, match=r"only tensor-parallel ranks \[1\] of 2 have the tensor \(at b\)"):
        ranks(INFO, INFO, shapes=({"a": (3, 2)}, {"a": (3, 2), "b": (2,)}))


def test_optimizer_files_are_those_of_all_model_parallel_ranks():
    contents = {f"mp_rank_{mp:02d}_model_states.pt": model(mp_world_size=2, dp_world_size=1) for mp in (0, 1)}
    contents["zero_pp_rank_0_mp_rank_00_optim_states.pt"] = optimizer()
    with pytest.raises(MissingFiles, match=r"zero_pp_rank_0_mp_rank_01_optim_states\.pt is missing"):
        of_files(contents)
    contents["zero_pp_rank_0_mp_rank_02_optim_states.pt"] = optimizer()
    with pytest.raises(Disagreement, match="a save with more model-parallel ranks; expected 2, got rank 2"):
        of_files(contents)


def test_what_ranks_hold_alike_must_be_equal():
    told = INFO | {"tp_replicated_parameter_patterns": ["a"]}
    (found,) = replicas(ranks(told, told))
    assert (found.name, found.is_spare) == ("a", False)


def test_a_universal_checkpoint_has_whole_tensors():
    """The shapes of frozen parameters are all that has to be joined."""
    contents: dict[str, Any] = {"zero/a/fp32.pt": {"param": tensor(6, 2)}}
    for mp in (0, 1):
        contents[f"mp_rank_{mp:02d}_model_states.pt"] = model(
            module={"a": half(3, 2, key=f"a {mp}"), "f": half(2, key=f"f {mp}")}, buffer_names=[],
            param_shapes=[{"a": (3, 2)}], frozen_param_shapes={"f": (2,)},
            frozen_param_fragments={"f": half(2, key=f"f {mp}")}, dp_world_size=1, mp_world_size=2,
            universal_checkpoint_info=INFO,
        )  # fmt: skip
    found = of_files(contents)
    assert {name: source.shape for name, source in sources(found).items()} == {"a": (6, 2), "f": (4,)}
