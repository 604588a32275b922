"""What the catalog makes of what files say, fed with plain dicts: no files, no IO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from catalogs import BF16, UNSET, catalog, half, model, of_files, optimizer, optimizer3, stage2, stage3, tensor

from zeroconsolidate.archive.inert import Inert
from zeroconsolidate.archive.names import FileKind, file_name, parse
from zeroconsolidate.archive.raw import CheckpointFiles, RawFile, SwapFile
from zeroconsolidate.catalog import agree, fields
from zeroconsolidate.catalog.agree import are_missing
from zeroconsolidate.catalog.facts import Cut, FlatGroup, FrozenStripes, Member, Unsaved
from zeroconsolidate.catalog.model_file import read_model_file
from zeroconsolidate.catalog.read import read
from zeroconsolidate.catalog.whole_optimizer import read_whole_optimizer
from zeroconsolidate.dtypes import DType
from zeroconsolidate.errors import DamagedFile, Disagreement, MissingFiles, UnsupportedLayout

if TYPE_CHECKING:
    from zeroconsolidate.archive.located import LocatedTensor
    from zeroconsolidate.catalog.facts import Catalog


# --- what is read ----------------------------------------------------------------------------------------------------


def test_a_stage_2_checkpoint():
    found = stage2()
    origin = found.origin
    assert (origin.stage, origin.world_size, origin.step, origin.ds_version) == (2, 2, 5, "0.19.8")
    assert (origin.training_dtype, origin.optimizer, origin.optimizer_state) == (BF16, "AdamW", ("exp_avg",))
    assert origin.param_groups == ({"lr": 0.1, "betas": (0.9, 0.99), "decoupled": None},)
    assert found.order == ("a", "b", "n")
    assert found.groups[0].members == (Member("a", (3, 2)), Member("b", (3,)))
    assert [p.numel for p in found.groups[0].partitions] == [6, 3]
    assert found.groups[0].cut is Cut.CONTIGUOUS
    assert list(found.buffers) == ["n"]
    assert list(found.module) == ["a", "b"]
    assert found.notes == ()
    assert found.missing == ()


def test_a_stage_3_checkpoint():
    found = catalog([stage3(0), stage3(1)], [optimizer3(0), optimizer3(1)], stage=3)
    assert found.groups[0].cut is Cut.STRIPED
    assert found.origin.stage == 3
    assert found.origin.training_dtype is BF16
    assert found.module == {}
    assert found.origin.optimizer_state == ()


@pytest.mark.parametrize("remembered", [1, 16])
def test_equal_model_files_are_looked_at_once(monkeypatch: pytest.MonkeyPatch, remembered: int):
    """`load` gives one object for files with equal pickles. What is not remembered is read again, to the same end."""
    looked_at = []
    monkeypatch.setattr("zeroconsolidate.catalog.read.MAX_REMEMBERED", remembered)
    monkeypatch.setattr(
        "zeroconsolidate.catalog.read.read_model_file", lambda raw: looked_at.append(raw.path) or read_model_file(raw)
    )
    first, others, last = (stage3(dp_world_size=6, shared_params=shared) for shared in ({"n": "a"}, {}, {"n": "b"}))
    models = [first, others, others, last, last, others]
    found = catalog(models, [optimizer3(rank, partition_count=6) for rank in range(6)], stage=3)
    assert [file_name(path).split("_mp")[0] for path in found.files if "model_states" in path] == [
        f"zero_pp_rank_{rank}" for rank in range(6)
    ]
    assert len(looked_at) == {1: 6, 16: 3}[remembered]


def test_another_order_of_parameters_in_one_rank_is_an_error():
    other = stage3(param_shapes=[{"b": (3,), "a": (3, 2)}])
    with pytest.raises(Disagreement, match="'param_shapes'"):
        catalog([stage3(0), other], [optimizer3(0), optimizer3(1)], stage=3)


def test_param_shapes_of_deepspeed_before_0_5_4_are_one_mapping():
    assert len(stage2(param_shapes={"a": (3, 2), "b": (3,)}).groups) == 1


def test_bf16_optimizer_writes_neither_a_stage_nor_its_count():
    changes = {"zero_stage": UNSET, "partition_count": UNSET}
    found = catalog([model()], [optimizer(0, **changes), optimizer(1, **changes)])
    assert found.origin.stage == 1
    changes3 = {"zero_stage": UNSET, "partition_count": UNSET}
    found = catalog([stage3(0), stage3(1)], [optimizer3(0, **changes3), optimizer3(1, **changes3)], stage=3)
    assert found.origin.stage == 3


def test_facts_that_are_not_stated():
    silent = {"global_steps": UNSET, "ds_version": UNSET, "ds_config": UNSET, "dp_world_size": UNSET}
    elastic = {"base_optimizer_state": [{"exp_avg": tensor(6)}, None]}
    old = [optimizer(rank, top={"ds_version": None, "ds_config": {}}, **elastic) for rank in (0, 1)]
    found = catalog([model(**silent)], old)
    origin = found.origin
    assert (origin.step, origin.ds_version, origin.optimizer, origin.param_groups) == (None, None, None, ())
    assert origin.world_size == 2
    assert origin.optimizer_state == ("exp_avg",)


@pytest.mark.parametrize("base", [None, {"state": 7, "param_groups": {}}, {"state": {0: 7}, "param_groups": [7]}])
def test_an_optimizer_whose_state_cannot_be_understood_still_has_masters(base: object):
    states = [optimizer(rank, base_optimizer_state=base) for rank in (0, 1)]
    assert catalog([model()], states).origin.optimizer_state == ()


def test_the_version_may_stand_inside_the_optimizer_state():
    inside = [optimizer(rank, top={"ds_version": None}, ds_version="0.19.8") for rank in (0, 1)]
    assert catalog([model(ds_version=UNSET)], inside).origin.ds_version == "0.19.8"


@pytest.mark.parametrize("config", ["ds_config.json", {"optimizer": "adam"}, {"optimizer": {"type": 7}}, {}])
def test_a_config_that_is_no_dict_does_not_matter(config: object):
    """Before DeepSpeed loaded it first, `deepspeed.initialize(config="ds_config.json")` saved the path."""
    states = [optimizer(rank, top={"ds_config": config}) for rank in (0, 1)]
    assert catalog([model(ds_config=config)], states).origin.optimizer is None


def test_the_training_dtype_is_that_of_most_elements():
    module = {"a": tensor(3, 2, dtype=DType.F16, key="a"), "b": tensor(3, key="b")}
    assert stage2(module=module, buffer_names=[]).origin.training_dtype is DType.F16


# --- parameters, buffers, ties, and what is none of them ------------------------------------------------------------


def module(**more: LocatedTensor) -> dict[str, Any]:
    return model()["module"] | more


def test_stage_1_lists_no_frozen_parameters_and_they_are_found_all_the_same():
    found = stage2(module=module(f=tensor(2, dtype=BF16, key="f")), frozen_param_shapes=None)
    assert list(found.frozen) == ["f"]
    assert found.order == ("a", "b", "n", "f")
    assert found.notes == ()


def test_a_name_that_nothing_lists_is_written_as_it_is_and_said():
    extra = {"q": tensor(2, dtype=DType.I8, key="q")}
    found = stage2(module=module(**extra), frozen_param_shapes=None)
    assert list(found.buffers) == ["n", "q"]
    assert found.notes == ("q is listed neither as parameter nor as buffer; written unchanged, as a buffer",)


def test_a_float_that_nothing_lists_may_be_a_tie_that_only_values_show():
    """Frozen parameters are listed at stage 2, and this is none: it may still be a second name of a parameter."""
    found = stage2(module=module(q=half(2, key="q")))
    assert [(maybe.name, maybe.unlisted) for maybe in found.maybe_ties] == [("q", True)]
    assert (list(found.buffers), list(found.frozen)) == (["n"], ["q"])
    assert found.notes == ()


def test_entries_that_are_no_tensors_are_left_out_and_said():
    found = stage2(module=module() | {"b._extra_state": "text"})
    assert "b._extra_state" not in found.order
    assert found.notes == ("b._extra_state is not a tensor and is left out",)


def test_frozen_parameters_of_stage_2():
    fragment = tensor(2, 2, dtype=BF16, key="f")
    found = stage2(module=module(f=fragment), frozen_param_shapes={"f": (2, 2)}, frozen_param_fragments={"f": fragment})
    assert found.frozen == {"f": fragment}


@pytest.mark.parametrize("fragment", [None, tensor(3, dtype=BF16)])
def test_a_frozen_parameter_that_does_not_fit(fragment: LocatedTensor | None):
    fragments = {"f": fragment} if fragment else {}
    with pytest.raises(DamagedFile, match=r"the frozen parameter does not fit; expected shape \(2, 2\), got .*> f\)"):
        stage2(module=module(), frozen_param_shapes={"f": (2, 2)}, frozen_param_fragments=fragments)


def test_frozen_parameters_of_stage_3_are_striped():
    frozen = {"frozen_param_shapes": {"f": (3, 1)}, "frozen_param_fragments": {"f": tensor(2, dtype=BF16)}}
    models = [stage3(rank, **frozen) for rank in (0, 1)]
    found = catalog(models, [optimizer3(0), optimizer3(1)], stage=3)
    stripes = found.frozen["f"]
    assert isinstance(stripes, FrozenStripes)
    assert (stripes.shape, stripes.dtype, list(stripes.starts)) == ((3, 1), BF16, [64, 64])
    assert stripes.files == tuple(f"dir/t/zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in (0, 1))


@pytest.mark.parametrize(
    ("fragment", "error", "message"),
    [
        (None, DamagedFile, "the frozen parameter's stripe is missing in rank 1"),
        (tensor(3, dtype=BF16), Disagreement, "expected 2 elements of BF16 .* got 3 of BF16"),
        (tensor(2, dtype=DType.F32), Disagreement, "expected 2 elements of BF16 .* got 2 of F32"),
    ],
)
def test_stripes_that_do_not_fit(fragment: LocatedTensor | None, error: type[Exception], message: str):
    good = {"frozen_param_shapes": {"f": (3, 1)}, "frozen_param_fragments": {"f": tensor(2, dtype=BF16)}}
    bad = good | {"frozen_param_fragments": {"f": fragment} if fragment else {}}
    with pytest.raises(error, match=message):
        catalog([stage3(0, **good), stage3(1, **bad)], [optimizer3(0), optimizer3(1)], stage=3)


def test_a_stripe_of_the_first_rank_that_does_not_fit():
    bad = {"frozen_param_shapes": {"f": (9, 1)}, "frozen_param_fragments": {"f": half(2)}}
    with pytest.raises(Disagreement, match=r"in rank 0 does not fit; expected 5 elements of BF16 .* got 2 of BF16"):
        catalog([stage3(0, **bad), stage3(1, **bad)], [optimizer3(0), optimizer3(1)], stage=3)


def test_ties_are_recorded():
    found = stage2(module=module(t=tensor(3, 2, dtype=BF16, key="a")), shared_params={"t": "a"})
    assert found.ties == {"t": "a"}
    assert list(found.module) == ["a", "b", "t"]


def test_a_chain_of_ties_ends_at_the_stored_name():
    tied = {"t": tensor(3, 2, dtype=BF16, key="a"), "u": tensor(3, 2, dtype=BF16, key="a")}
    assert stage2(module=module(**tied), shared_params={"u": "t", "t": "a"}).ties == {"u": "a", "t": "a"}


def test_ties_that_are_not_recorded_are_seen_in_the_storages():
    tied = {
        "t": tensor(3, 2, dtype=BF16, key="a"),
        "f": tensor(2, dtype=BF16, key="f"),
        "g": tensor(2, dtype=BF16, key="f"),
    }
    found = stage2(module=module(**tied), frozen_param_shapes=None)
    assert found.ties == {"t": "a", "g": "f"}
    assert list(found.frozen) == ["f"]


def test_a_recorded_tie_of_a_name_that_is_stored_itself_is_no_tie():
    """`data_ptr` of a parameter without elements is that of its neighbour in the flat buffer."""
    assert stage2(shared_params={"b": "a", "n": "a"}).ties == {}


def test_a_tie_to_what_was_not_saved_is_left_out_and_said():
    """The frozen base of a LoRA run that was excluded: its alias is in the module, its parameter is not."""
    found = stage2(module=module(t=tensor(2, dtype=BF16, key="t")), shared_params={"t": "gone"})
    assert found.notes == ("t is tied to a parameter that was not saved; left out",)
    assert found.ties == {}
    assert "t" not in found.order


@pytest.mark.parametrize("shared", [{"t": "t"}, {"t": "u", "u": "t"}])
def test_names_that_are_tied_in_a_circle_are_told_apart_by_their_storages(shared: dict[str, str]):
    tied = {"t": tensor(2, dtype=BF16, key="t"), "u": tensor(2, dtype=BF16, key="t")}
    found = stage2(module=module(**tied), shared_params=shared, frozen_param_shapes=None)
    assert found.ties == {"u": "t"}
    assert list(found.frozen) == ["t"]


def test_empty_parameters_are_not_taken_for_ties_of_one_another():
    """Stage 1 of DeepSpeed 0.19.8: both lie at address 0, so it says that they are one parameter."""
    empties = {"e": tensor(0, 4, dtype=BF16, key="e"), "f": tensor(7, 0, dtype=BF16, key="f")}
    found = stage2(module=module(**empties), frozen_param_shapes=None, shared_params={"f": "e"})
    assert found.ties == {}
    assert {name: found.frozen[name].shape for name in found.frozen} == {"e": (0, 4), "f": (7, 0)}


def test_a_placeholder_whose_values_are_nowhere():
    left = stage3()["module"] | {"lost": tensor(0, dtype=BF16), "lost_too": tensor(0, dtype=BF16)}
    models = [stage3(rank, module=left, shared_params={"lost_too": "lost"} if rank == 0 else {}) for rank in (0, 1)]
    found = catalog(models, [optimizer3(0), optimizer3(1)], stage=3)
    assert found.unsaved == {"lost": Unsaved.NOT_OPTIMIZED}
    assert found.unsaved_ties == {"lost_too": "lost"}
    assert found.order == ("a", "b", "n")
    assert found.notes == ()


def test_whole_numbers_without_their_scale_are_not_saved():
    left = stage3()["module"] | {
        "f": tensor(0, dtype=BF16),
        "g": tensor(0, dtype=BF16),
        "i": tensor(0, dtype=DType.I64),
    }
    fragments = {"f": tensor(2, dtype=DType.I8), "g": half(2), "i": tensor(2, dtype=DType.I64)}
    frozen = {"module": left, "frozen_param_shapes": dict.fromkeys("fgi", (4,)), "frozen_param_fragments": fragments}
    found = catalog([stage3(rank, **frozen) for rank in (0, 1)], [optimizer3(0), optimizer3(1)], stage=3)
    assert found.unsaved == {"f": Unsaved.QUANTIZED}
    assert (list(found.frozen), found.order) == (["g", "i"], ("a", "b", "n", "g", "i"))


def test_what_continues_the_name_of_a_tensor_is_no_parameter():
    """bitsandbytes keeps the statistics of a 4-bit weight in the state dict, and they are no buffers of a module."""
    extra = {"w": tensor(2, dtype=DType.U8, key="w"), "w.absmax": half(2, key="x"), "w.q.map": half(2, key="y")}
    found = stage2(module=module(**extra), frozen_param_shapes={"w": (2,)}, frozen_param_fragments={"w": extra["w"]})
    assert (list(found.buffers), list(found.frozen)) == (["n", "w.absmax", "w.q.map"], ["w"])


def test_a_placeholder_of_one_element_is_no_buffer():
    """Before DeepSpeed 0.5 stage 3 leaves one element of a parameter. What is alike and listed nowhere is lost too."""
    left = {name: half(1, key=name) for name in ("a", "b", "lost")} | {"n": tensor(2, key="n")}
    models = [stage3(rank, module=left) for rank in (0, 1)]
    assert list(catalog(models, [optimizer3(0), optimizer3(1)], stage=3).unsaved) == ["lost"]
    # Where parameters leave nothing, one element is a value.
    models = [stage3(rank, module=stage3()["module"] | {"scale": half(1, key="s")}) for rank in (0, 1)]
    assert list(catalog(models, [optimizer3(0), optimizer3(1)], stage=3).buffers) == ["n", "scale"]


def test_a_module_of_other_shapes():
    changed = module() | {"a": tensor(2, 3, dtype=BF16, key="a")}
    with pytest.raises(Disagreement, match=r"'module' and 'param_shapes' do not describe the same model; .*\(3, 2\)"):
        stage2(module=changed)


def test_parameters_that_only_param_shapes_lists_are_in_the_order_too():
    del (only := model()["module"])["b"]
    assert stage2(module=only).order == ("a", "n", "b")


# --- what does not fit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"module": None}, MissingFiles, "the model file has no 'module'"),
        ({"buffer_names": 7}, DamagedFile, "'buffer_names' is not a list of names"),
        ({"param_shapes": None}, UnsupportedLayout, "neither 'param_shapes' nor 'param_slice_mappings' says"),
        ({"param_shapes": [7]}, DamagedFile, "'param_shapes' is not a mapping of names to shapes; got int"),
        ({"param_shapes": [{"a": (3, -2)}]}, DamagedFile, "'param_shapes' has an impossible shape for 'a'"),
        ({"param_shapes": [{"a": 6}]}, DamagedFile, "'param_shapes' has an impossible shape for 'a'"),
        ({"param_shapes": [{7: (3,)}]}, DamagedFile, "a parameter's name is not printable text; got 7"),
        ({"param_shapes": [{"a": (3, 2)}, {"a": (3, 2)}]}, Disagreement, "expected 2 flat groups"),
        ({"shared_params": ["a"]}, DamagedFile, "'shared_params' is not a mapping of names to names"),
        ({"global_steps": "5"}, DamagedFile, "no usable 'global_steps'; expected int, got str"),
        ({"global_steps": True}, DamagedFile, "no usable 'global_steps'; expected int, got bool"),
        ({"module": 7}, DamagedFile, "'module' is not a state dict; got int"),
        ({"mp_world_size": 0}, DamagedFile, "'mp_world_size' is impossible; expected 1 to"),
        ({"mp_world_size": 2}, MissingFiles, "expected those of 2; missing mp_rank_01_model_states"),
        ({"ds_autoep_layers": [1]}, DamagedFile, "'ds_autoep_layers' is not a list of layers"),
        ({"dp_world_size": 3}, MissingFiles, "1 of 3 ranks is incomplete: .*pp_rank_2.* is missing"),
        ({"dp_world_size": 1}, Disagreement, "save with more ranks; expected ranks 0 to 0 of 1, got rank 1"),
        ({"dp_world_size": 0}, DamagedFile, "'dp_world_size' is impossible"),
        ({"buffer_names": ["x" * 1025]}, DamagedFile, "a parameter's name is too long"),
        ({"buffer_names": ["../x"]}, DamagedFile, "a parameter's name reads like a path"),
    ],
)  # fmt: skip
def test_model_files_that_make_no_sense(changes: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        stage2(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"single_partition_of_fp32_groups": UNSET},
            UnsupportedLayout,
            "the file holds no flat groups; expected one of",
        ),
        ({"base_optimizer_state": {"state": {0: {"step": 2**60}}}}, DamagedFile, "the optimizer's step is impossible"),
        ({"single_partition_of_fp32_groups": 7}, DamagedFile, "is not a list of tensors; got int"),
        ({"single_partition_of_fp32_groups": [7]}, DamagedFile, r"\[0\] is not a flat tensor; got 7"),
        ({"single_partition_of_fp32_groups": [tensor(2, 2)]}, DamagedFile, r"\[0\] is not a flat tensor"),
        ({"single_partition_of_fp32_groups": [tensor(2, stride=(2,))]}, DamagedFile, r"\[0\] is not a flat tensor"),
        ({"partition_count": [2, 2]}, DamagedFile, "'partition_count' does not fit; expected one for each of 1 groups"),
        ({"partition_count": [0]}, DamagedFile, "'partition_count' does not fit"),
        (
            {"partition_count": [1]},
            UnsupportedLayout,
            r"cut over 1 ranks of 2, and its parameters are not known to be experts .*group 0",
        ),
        ({"param_alignment_paddings": 7}, DamagedFile, "'param_alignment_paddings' is not a list of lists"),
        ({"param_alignment_paddings": [[-1, 0]]}, DamagedFile, "'param_alignment_paddings' is not a list of lists"),
        ({"param_alignment_paddings": [[0]]}, Disagreement, "does not fit 'param_shapes'; expected 2 entries, got 1"),
    ],
)
def test_optimizer_files_that_make_no_sense(changes: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        catalog([model()], [optimizer(0, **changes), optimizer(1, **changes)])


def test_paddings_are_those_behind_the_members():
    states = [optimizer(rank, param_alignment_paddings=[[2, 0]]) for rank in (0, 1)]
    assert [member.padding_numel for member in catalog([model()], states).groups[0].members] == [2, 0]


def test_a_parameter_in_two_groups():
    groups = {"single_partition_of_fp32_groups": [tensor(6), tensor(6)], "partition_count": [2, 2]}
    states = [optimizer(rank, **groups) for rank in (0, 1)]
    with pytest.raises(DamagedFile, match="the parameter 'a' is in two groups"):
        catalog([model(param_shapes=[{"a": (3, 2)}, {"a": (3, 2)}])], states)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {"zero_stage": 1}, "the stage differs; expected 2"),
        ({}, {"single_partition_of_fp32_groups": [tensor(3)] * 2, "partition_count": [2, 2]}, "the number of flat gr"),
        ({}, {"param_alignment_paddings": [[1, 0]]}, None),
        ({"param_alignment_paddings": [[0, 0]]}, {"param_alignment_paddings": [[1, 0]]}, "'param_alignment_padd"),
        ({}, {"base_optimizer_state": {"state": {0: {"step": 6}}}}, r"the optimizer's step differs; expected \(5.0,\)"),
        ({}, {"base_optimizer_state": {"state": {0: {"exp_avg": tensor(3)}}}}, None),
    ],
)  # fmt: skip
def test_ranks_that_tell_different_stories(first: dict[str, Any], second: dict[str, Any], message: str | None):
    files = [optimizer(0, **first), optimizer(1, **second)]
    if message is None:  # what one of them does not say cannot contradict
        catalog([model()], files)
        return
    with pytest.raises(Disagreement, match=f"the files belong to different saves: {message}.*rank_1"):
        catalog([model()], files)


# --- one mapping for all groups (DeepSpeed before 0.5.4) -------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "groups"),
    [
        ((10, 4), [["a", "b"], ["c"]]),  # a group ends where the next parameter would not fit
        ((6, 8), [["a"], ["b", "c"]]),
        ((9, 5), [["a", "b"], ["c"]]),
    ],
)
def test_one_mapping_is_told_apart_by_what_the_groups_hold(held: tuple[int, ...], groups: list[list[str]]):
    shapes = {"a": (3, 2), "b": (3,), "c": (4,)}
    copies = {name: half(*shape, key=name) for name, shape in shapes.items()}
    states = [optimizer(0, single_partition_of_fp32_groups=[tensor(n) for n in held], partition_count=[1, 1])]
    told = model(module=copies, buffer_names=[], param_shapes=shapes, dp_world_size=1)
    found = catalog([told], states)
    assert [[member.name for member in group.members] for group in found.groups] == groups


def test_one_mapping_of_stage_3_counts_stripes():
    """`a` has 5 elements, and a stripe of 3 on each of two ranks: `b` does not fit into what is left of 6."""
    shapes = {"a": (5,), "b": (1,)}
    files = {"module": {name: half(0, key=name) for name in shapes}, "buffer_names": [], "param_shapes": shapes}
    states = [optimizer3(rank, fp32_flat_groups=[tensor(3), tensor(1)]) for rank in (0, 1)]
    found = catalog([stage3(rank, **files) for rank in (0, 1)], states, stage=3)
    assert [[member.name for member in group.members] for group in found.groups] == [["a"], ["b"]]


# --- the first stage 1 (DeepSpeed before 0.5.4) ----------------------------------------------------------------------


def by_intervals(*intervals: Any) -> Catalog:
    """Two ranks of a group that is communicated in intervals, each of them cut over the ranks."""
    states = [
        optimizer(
            rank,
            single_partition_of_fp32_groups=UNSET,
            local_sub_partitions_of_fp32_groups=held,
            partition_count=UNSET,
            zero_stage=1,
        )
        for rank, held in enumerate(intervals)
    ]
    return catalog([model()], states)


def test_intervals_are_laid_end_to_end_and_ranks_within_them():
    held = [[[tensor(3, key=f"rank {rank}, interval {i}") for i in (0, 1)]] for rank in (0, 1)]
    keys = [partition.storage.key for partition in by_intervals(*held).groups[0].partitions]
    assert keys == [f"rank {rank}, interval {i}" for i in (0, 1) for rank in (0, 1)]


def test_ranks_that_differ_in_their_intervals():
    with pytest.raises(Disagreement, match="the ranks differ in the number of intervals"):
        by_intervals([[tensor(3), tensor(3)]], [[tensor(3)]])


@pytest.mark.parametrize(("held", "message"), [(7, "is not a list of groups"), ([[]], "has a group without intervals")])
def test_intervals_that_make_no_sense(held: Any, message: str):
    with pytest.raises(DamagedFile, match=f"'local_sub_partitions_of_fp32_groups' {message}"):
        by_intervals(held, held)


# --- a shard group smaller than the world (MiCS) ---------------------------------------------------------------------


def test_ranks_of_every_shard_group_hold_a_copy():
    """Two shard groups of two ranks: neighbours share a copy."""
    models = [stage3(rank, dp_world_size=4) for rank in range(4)]
    states = [optimizer3(rank, fp32_flat_groups=[tensor(5, key=f"rank {rank}")]) for rank in range(4)]
    found = catalog(models, states, stage=3)
    held = {group.holder: [partition.storage.key for partition in group.partitions] for group in found.groups}
    assert held == {"shard group 0 of 2": ["rank 0", "rank 1"], "shard group 1 of 2": ["rank 2", "rank 3"]}


def test_only_the_first_shard_group_saved_the_model():
    models = [stage3(rank, dp_world_size=4) for rank in (0, 1)]
    found = catalog(models, [optimizer3(rank) for rank in (0, 1)], stage=3)
    assert "MiCS: of 4 ranks, the 2 of the first shard group saved the model" in found.notes


def test_ranks_in_two_dialects():
    with pytest.raises(Disagreement, match="the kind of flat groups differs"):
        catalog([model()], [optimizer(0, zero_stage=UNSET), optimizer3(1, zero_stage=UNSET)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_steps": 6}, r"the step \('global_steps'\) differs; expected 5 as in zero_pp_rank_0.*got 6"),
        ({"dp_world_size": 4}, r"the world size \('dp_world_size'\) differs; expected 2 .* got 4"),
        ({"ds_version": "0.9.5"}, "the DeepSpeed version differs; expected '0.19.8'"),
        ({"param_shapes": [{"a": (2, 3), "b": (3,)}]}, "'param_shapes' differs"),
        ({"param_shapes": [{"b": (3,), "a": (3, 2)}]}, "'param_shapes' differs"),
        ({"frozen_param_shapes": {"f": (1,)}}, "'frozen_param_shapes' differs"),
    ],
)
def test_model_files_of_different_saves(changes: dict[str, Any], message: str):
    with pytest.raises(Disagreement, match=message):
        catalog([stage3(0), stage3(1, **changes)], [optimizer3(0), optimizer3(1)], stage=3)


@pytest.mark.parametrize(
    ("counted", "changes", "told"),
    [
        (5, {}, False),
        (6, {}, False),  # DeepSpeed before 0.14 counts a step when it begins
        (900, {}, True),
        (3, {"skipped_steps": 2}, False),  # fp16 gradients overflowed twice
        (3, {}, True),
        (900, {"global_steps": UNSET}, False),
        (900, {"ds_config": {"zero_optimization": {"zenflow": {"topk_ratio": 0.1}}}}, False),
    ],
)
def test_steps_that_lie_apart_are_told_at_stage_3(counted: int, changes: dict[str, Any], told: bool):
    """It is no error: who resumes without the optimizer's state begins its count anew."""
    moments = {"optimizer_state_dict": {"state": {0: {"step": counted}}, "param_groups": []}}
    models = [stage3(rank, **changes) for rank in (0, 1)]
    notes = catalog(models, [optimizer3(rank, **moments) for rank in (0, 1)], stage=3).notes
    assert any(f"the optimizer files count {counted} steps, the model files 5" in note for note in notes) == told


def test_steps_of_stage_2_are_left_to_the_witness():
    moments = {"base_optimizer_state": {"state": {0: {"step": 900}}, "param_groups": []}}
    assert catalog([model()], [optimizer(rank, **moments) for rank in (0, 1)]).notes == ()


def test_what_differs_is_shown_in_part_if_it_is_long():
    shapes = [{f"layers.{i}.weight": (i + 1,) for i in range(100)}]
    with pytest.raises(Disagreement) as caught:
        catalog([stage3(0, param_shapes=shapes), stage3(1)], [optimizer3(0), optimizer3(1)], stage=3)
    assert len(str(caught.value)) < 600
    assert "…" in str(caught.value)


# --- files that are not there, or too many --------------------------------------------------------------------------


def test_no_model_states():
    with pytest.raises(MissingFiles, match="the model states are missing; look for mp_rank_00") as caught:
        catalog([], [optimizer(0)])
    assert caught.value.files == ("mp_rank_00_model_states.pt",)


def test_without_any_model_states_nothing_is_known():
    broken = model(global_steps="5")
    with pytest.raises(MissingFiles, match=r"no model states can be read, .*; mp_rank_00_model_states\.pt: .*'global_"):
        catalog([broken], [optimizer(0), optimizer(1)], incomplete=True)


def test_what_is_lost_of_files_that_describe_different_models():
    states = [optimizer(0, single_partition_of_fp32_groups=[tensor(6), tensor(6)], partition_count=[2, 2])]
    with pytest.raises(Disagreement, match=r"do not describe the same model; expected 1 flat groups .* got 2"):
        catalog([model()], states, incomplete=True)


def test_what_is_lost_of_more_partitions_than_there_can_be():
    shapes = [{f"p{i}": (1,)} for i in range(20)]
    with pytest.raises(
        DamagedFile, match=r"too many files are missing to say what they held; .* got 100000 ranks of 20 groups"
    ):
        catalog([model(dp_world_size=100_000, param_shapes=shapes, module={})], [], incomplete=True)


def test_no_optimizer_states_at_all():
    with pytest.raises(MissingFiles, match=r"2 of 2 ranks are incomplete \(0, 1\): .* are missing") as caught:
        catalog([model()], [])
    assert caught.value.files[0] == "zero_pp_rank_0_mp_rank_00_optim_states.pt"


def test_incomplete_checkpoints_can_be_told_about():
    found = catalog([model(dp_world_size=4)], [optimizer(0, partition_count=[4])], incomplete=True)
    assert found.missing == tuple(f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (1, 2, 3))
    assert found.origin.world_size == 4


def test_an_incomplete_checkpoint_without_its_first_rank_can_be_told_about():
    """Ties are recorded by rank 0 only; without its file a tied name cannot be told from a lost parameter."""
    tied = stage3(1, module=stage3()["module"] | {"t": tensor(0, dtype=BF16)})
    found = catalog([tied], [optimizer3(0), optimizer3(1)], stage=3, incomplete=True, model_ranks=(1,))
    assert found.missing == ("zero_pp_rank_0_mp_rank_00_model_states.pt",)
    assert "t" not in found.order
    assert any("t" in note for note in found.notes)


def test_a_rank_with_two_files():
    """One with the prefix of bf16 runs and one without: an older save lies in the same folder."""
    kind, name = parse("mp_rank_00_model_states.pt") or (None, None)
    prefixed = [parse(f"{prefix}zero_pp_rank_0_mp_rank_00_optim_states.pt") for prefix in ("", "bf16_")]
    assert kind is not None and name is not None
    optimizers = tuple(parsed[1] for parsed in prefixed if parsed)
    by_kind = {kind: (name,), FileKind.OPTIMIZER: optimizers}
    files = CheckpointFiles(root="dir", tag="t", directory="dir/t", tags=("t",), latest=None, files=by_kind)
    raw = RawFile(kind=kind, name=name, path="dir/t/m", content=model(), container="torch zip")
    with pytest.raises(Disagreement, match="rank 0 has two files; expected one"):
        read(files, lambda _, kind: [raw] if kind is FileKind.MODEL else [])


def test_many_missing_files_are_counted():
    names = [f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(40)]
    error = are_missing(names, 64)
    assert str(error).startswith("40 of 64 ranks are incomplete (0, 1, 2, ")
    assert str(error).endswith("15, …): zero_pp_rank_0_mp_rank_00_optim_states.pt and 39 more are missing")
    assert error.files == tuple(names)


# --- fields -----------------------------------------------------------------------------------------------------------


def test_enum_members_and_their_numbers():
    assert fields.enum_int(Inert("ZeroStageEnum", (3,))) == 3
    assert fields.enum_int(2) == 2
    assert fields.enum_int(True) is None
    assert fields.enum_int(Inert("Other", (1, 2))) is None
    assert fields.enum_int("3") is None


def test_a_missing_field_has_its_default_or_is_an_error():
    assert fields.field({}, "k", int, 7) == 7
    assert fields.field({"k": 3}, "k", int, 7) == 3
    with pytest.raises(DamagedFile, match="no usable 'k'; expected int, got nothing"):
        fields.field({}, "k", int)


# --- stage 0 ----------------------------------------------------------------------------------------------------------


def stage0(state: Any, **changes: Any) -> Catalog:
    told = {"param_shapes": None, "frozen_param_shapes": None, "dp_world_size": 1, "ds_config": {}}
    return catalog([model(**(told | {"optimizer": state} | changes))], [])


def test_masters_of_stage_0_are_asked_for():
    masters = {"fp32_groups": [[tensor(3, 2), tensor(3)]], "optimizer_state_dict": {"state": {}, "param_groups": [{}]}}
    (question,) = stage0(masters).unnamed
    assert [list(candidates) for candidates in question.candidates] == [["a", "b"]]
    # Before DeepSpeed 0.4.2 nothing says what is a buffer: any tensor may be a parameter.
    (question,) = stage0(masters, buffer_names=None).unnamed
    assert [list(candidates) for candidates in question.candidates] == [["a", "b", "n"]]


def test_what_the_optimizer_keeps_of_the_masters_of_stage_0():
    kept = {"step": tensor(item=2.0), "exp_avg": tensor(3, 2, key="m"), "flag": 7, "rows": tensor(3, key="r")}
    groups: list[dict[str, Any]] = [{"lr": 0.1, "params": [0]}, {"lr": 0.2, "params": [1]}]
    masters = {
        "fp32_groups": [[tensor(3, 2)], [tensor(3)]],
        "optimizer_state_dict": {"state": {0: kept}, "param_groups": groups},
        "clip_grad": 1.0,
    }
    found = stage0(masters)
    (question,) = found.unnamed
    ((first,), (second,)) = question.states
    assert (list(first.values), first.step, first.param_group) == (["exp_avg"], kept["step"], 0)
    assert (second.values, second.step, second.param_group) == ({}, None, 1)
    assert found.training is not None
    assert [group["lr"] for group in found.training.param_groups] == [0.1, 0.2]
    assert found.training.flags == {"clip_grad": 1.0}


@pytest.mark.parametrize("params", [[0], [0, 1, 2], None, "all"])
def test_numbers_that_do_not_fit_the_masters(params: Any):
    groups = [{"lr": 0.1, "params": params}]
    masters = {"fp32_groups": [[tensor(3, 2), tensor(3)]]}
    (question,) = stage0(masters | {"optimizer_state_dict": {"state": {}, "param_groups": groups}}).unnamed
    assert question.states == ()


def named_of(*names: str, numbers: Any = None) -> dict[str, Any]:
    """The state of torch's own optimizer, given names."""
    numbers = list(range(len(names))) if numbers is None else numbers
    groups: list[dict[str, Any]] = [{"lr": 0.1, "params": numbers, "param_names": list(names)}]
    return {"state": {0: {"exp_avg": tensor(3, 2, key="m"), "step": 2}}, "param_groups": groups}


def test_the_names_that_torchs_optimizer_was_given():
    found = stage0(named_of("a"))
    (part,) = found.parts
    ((states,), (masters,)) = part.master_states, part.masters
    assert list(masters) == list(states) == ["a"]
    assert (list(states["a"].values), states["a"].step, states["a"].param_group) == (["exp_avg"], 2, 0)
    assert list(part.frozen) == ["b"]
    assert found.training is not None
    assert (found.training.param_groups, found.training.unread) == (({"lr": 0.1},), ())


@pytest.mark.parametrize(
    "state", [named_of("a", "gone"), named_of("a", numbers=[0, 1]), named_of("a", numbers="x"), {"state": {}}]
)
def test_names_that_say_nothing(state: dict[str, Any]):
    (part,) = stage0({"param_groups": [7]} | state).parts
    assert part.master_states == ({},)
    assert (list(part.masters[0]), part.frozen) == (["a", "b"], {})


def test_the_training_dtype_of_stage_0_is_not_that_of_buffers():
    values = {"a": half(3, 2, key="a"), "count": tensor(1, dtype=DType.I64), "n": tensor(99, key="n")}
    masters = {"fp32_groups": [[tensor(3, 2)]], "optimizer_state_dict": {"state": {}, "param_groups": [{}]}}
    assert stage0(masters, module=values).origin.training_dtype is BF16
    twice = {name: tensor(99, dtype=DType.I64, key="same") for name in ("p", "q")}
    found = stage0(masters, module=values | twice)
    assert (found.ties, found.origin.training_dtype) == ({"q": "p"}, BF16)


def test_without_masters_the_module_is_the_truth():
    found = stage0({"state": {}, "param_groups": [{"lr": 0.1}]})
    assert found.unnamed == ()
    assert found.notes == ("stage 0 without master weights: the values of the module are written",)
    assert stage0(None).notes == found.notes


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({"single_partition_of_fp32_groups": []}, MissingFiles, "1 of 1 rank is incomplete"),
        ({"fp32_groups": [7]}, DamagedFile, "'fp32_groups' is not a list of lists of tensors"),
        ({"fp32_groups": [[7]]}, DamagedFile, "'fp32_groups' is not a list of lists of tensors"),
        ({"ema": {}}, UnsupportedLayout, "the optimizer's state has an unknown layout; got the keys ema"),
        ({"fp32_groups_flat": [tensor(2, 2)]}, DamagedFile, "is not a flat tensor"),
    ],
)
def test_optimizers_of_stage_0_that_make_no_sense(state: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        stage0(state)


def test_a_partition_where_a_whole_optimizer_should_be():
    with pytest.raises(
        UnsupportedLayout, match="holds one rank's 'fp32_flat_groups'; the optimizer files of all ranks"
    ):
        read_whole_optimizer({"fp32_flat_groups": []}, "f", {})


def test_facts_know_their_sizes():
    assert Member("a", (3, 4), 2).numel == 12
    assert Member("a", ()).numel == 1
    group = FlatGroup(index=0, cut=Cut.STRIPED, members=(), partitions=(), states={}, step=None)
    assert group.members == ()


@pytest.mark.parametrize(
    ("reason", "names", "said"),
    [
        ("the file is empty", ["a.pt"], "a.pt is empty"),
        ("the file is empty", ["a.pt", "b.pt"], "a.pt and b.pt: the file is empty"),
        ("missing", ["a.pt", "b.pt", "c.pt"], "a.pt and 2 more are missing"),
    ],
)
def test_what_is_wrong_with_files_is_one_clause(reason: str, names: list[str], said: str) -> None:
    assert agree._clause(reason, names) == said


def test_a_model_parallel_rank_with_two_model_files():
    files = {"mp_rank_00_model_states.pt": model(), "mp_rank_000_model_states.pt": model()}
    with pytest.raises(Disagreement, match="a model-parallel rank has two files: one is left over from another save"):
        of_files(files | {"bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt": optimizer()})


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("universal_turn", "it may change the meaning of the others"),
        ("loco", r"partitions with error feedback \(LoCo\)"),
    ],
)
def test_a_key_of_a_layout_that_nobody_knows(key: str, why: str):
    with pytest.raises(UnsupportedLayout, match=f"the layout key '{key}' is not known: {why}"):
        stage2(**{key: 1})
    with pytest.raises(UnsupportedLayout, match=f"the layout key '{key}' is not known: {why}"):
        catalog([model()], [optimizer(**{key: 1}), optimizer(1)])


def test_a_key_of_the_training_script_is_nobodys_business():
    assert stage2(turn=1).order == stage2().order


# --- flat groups on NVMe ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("swaps", "there"),
    [
        ((), "nothing"),
        ((SwapFile(state=None, rank=0, first=0, last=0, path="x", size_bytes=20),), "nothing"),
        ((SwapFile(state=None, rank=0, first=0, last=1, path="x", size_bytes=16),), "16 bytes"),
    ],
)
def test_a_group_that_was_swapped_out_to_nobody_knows_where(swaps: tuple[SwapFile, ...], there: str):
    empty = [optimizer3(rank, fp32_flat_groups=[tensor(0)]) for rank in (0, 1)]
    with pytest.raises(UnsupportedLayout, match=f"nothing says which swap file holds it; .*20 bytes.* got {there}"):
        catalog([stage3(0), stage3(1)], empty, stage=3, swaps=swaps)


# --- what is not said ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [1, 2])
def test_the_stage_of_an_optimizer_that_does_not_say_it_is_in_the_config(stage: int):
    """BF16_Optimizer."""
    silent = [optimizer(rank, zero_stage=UNSET) for rank in (0, 1)]
    config = {"zero_optimization": {"stage": stage}}
    assert catalog([model(ds_config=config)], silent).origin.stage == stage
    assert catalog([model()], silent).origin.stage == 1


def test_a_tensor_at_stage_3_that_nothing_lists():
    module = stage3()["module"] | {"x": tensor(4, key="x")}
    found = catalog([stage3(module=module), stage3(module=module)], [optimizer3(0), optimizer3(1)], stage=3)
    assert "x" in found.order
