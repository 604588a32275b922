"""Pipelines: stages have the masters, layer files the names; what is used by several stages is one tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from catalogs import half, model, of_files, optimizer, tensor

from zeroconsolidate.archive.names import FileKind, parse
from zeroconsolidate.archive.raw import RawFile
from zeroconsolidate.catalog.pipeline import known_layers, read_layers, tied_names
from zeroconsolidate.dtypes import DType
from zeroconsolidate.errors import DamagedFile, Disagreement, MissingFiles, UnsupportedLayout
from zeroconsolidate.plan.sources import replicas, sources

if TYPE_CHECKING:
    from zeroconsolidate.archive.located import LocatedTensor
    from zeroconsolidate.catalog.facts import Catalog

Shapes = dict[str, tuple[int, ...]]


def pipeline(
    stages: list[Shapes], layers: dict[str, dict[str, LocatedTensor]], **changes: Any
) -> dict[str, dict[str, Any]]:
    """The files of a pipeline of one data-parallel rank. `layers`: by the name of the layer's file."""
    contents: dict[str, dict[str, Any]] = {}
    for stage, shapes in enumerate(stages):
        numel = sum(half(*shape).numel for shape in shapes.values())
        told = {
            "module": None,
            "buffer_names": [],
            "param_shapes": [shapes],
            "frozen_param_shapes": None,
            "dp_world_size": 1,
            "mp_world_size": len(stages),
            "checkpoint_parallel_dimensions": {"pp_degree": len(stages), "tp_degree": 1},
        }
        contents[f"mp_rank_{stage:02d}_model_states.pt"] = model(**(told | changes))
        contents[f"bf16_zero_pp_rank_0_mp_rank_{stage:02d}_optim_states.pt"] = optimizer(
            single_partition_of_fp32_groups=[tensor(numel, key=f"stage {stage}")],
            partition_count=[1],
            zero_stage=1,
        )
    return contents | {f"{name}-model_states.pt": layer for name, layer in layers.items()}


def read(stages: list[Shapes], layers: dict[str, dict[str, LocatedTensor]], **changes: Any) -> Catalog:
    return of_files(pipeline(stages, layers, **changes))


LAYERS = {
    "layer_00": {"w": half(4, 2, key="0")},
    "layer_01": {"w": half(2, 2, key="1")},
    "layer_02": {"w": half(2, 3, key="2"), "b": half(3, key="2b")},
}


def test_the_model_is_the_union_of_the_stages():
    found = read([{"0.w": (4, 2), "1.w": (2, 2)}, {"2.w": (2, 3), "2.b": (3,)}], LAYERS)
    assert found.order == ("0.w", "1.w", "2.w", "2.b")
    assert (found.origin.degrees.pp, found.origin.degrees.tp, len(found.parts)) == (2, 1, 1)
    assert [group.holder for group in found.groups] == ["pipeline stage 0, all ranks", "pipeline stage 1, all ranks"]
    assert {name: source.shape for name, source in sources(found).items()} == {
        "0.w": (4, 2), "1.w": (2, 2), "2.w": (2, 3), "2.b": (3,)
    }  # fmt: skip
    assert list(found.module) == ["0.w", "1.w", "2.w", "2.b"]


def test_how_many_stages_there_are_follows_from_the_layer_files_names():
    """DeepSpeed before 0.19.5 does not say."""
    stages: list[Shapes] = [{"0.w": (4, 2), "1.w": (2, 2)}, {"2.w": (2, 3), "2.b": (3,)}]
    assert read(stages, LAYERS, checkpoint_parallel_dimensions={}).origin.degrees.pp == 2


def test_a_tied_layer_is_one_parameter_that_all_its_stages_have():
    stages: list[Shapes] = [
        {"tied_modules.embed.w": (8,), "1.w": (2, 2)},
        {"tied_modules.embed.w": (8,), "2.w": (2, 3), "2.b": (3,)},
    ]
    found = read(stages, LAYERS)
    assert found.ties["tied_modules.embed.w"] == "0.w"
    # The file of the layer knows the shape; the second stage's copy has to equal the first's.
    assert sources(found)["0.w"].shape == (4, 2)
    assert [(replica.name, replica.holders) for replica in replicas(found)] == [
        ("0.w", ("pipeline stage 0, all ranks", "pipeline stage 1, all ranks"))
    ]


def test_a_stale_copy_that_the_client_declares_may_differ():
    info = {"pipeline_replicated_parameter_patterns": [r"0\.w"], "universal_checkpoint_version": 0.2}
    stages: list[Shapes] = [{"0.w": (4, 2), "1.w": (2, 2)}, {"0.w": (4, 2), "2.w": (2, 3), "2.b": (3,)}]
    assert [replica.is_spare for replica in replicas(read(stages, LAYERS))] == [False]
    found = read(stages, LAYERS, universal_checkpoint_info=info)
    assert [replica.is_spare for replica in replicas(found)] == [True]
    # The first stage's is the parameter.
    assert [group.members[0].is_spare for group in found.groups] == [False, True]


def test_the_file_of_a_layer_is_missing():
    without = {name: layer for name, layer in LAYERS.items() if name != "layer_02"}
    stages: list[Shapes] = [{"0.w": (4, 2), "1.w": (2, 2)}, {"2.w": (2, 3), "2.b": (3,)}]
    with pytest.raises(MissingFiles, match=r"expected 2\.w in layer_02-model_states.pt") as caught:
        read(stages, without)
    assert caught.value.files == ("layer_02-model_states.pt",)


def test_a_parameter_that_no_layer_can_have_is_in_none_of_their_files():
    with pytest.raises(MissingFiles, match=r"expected head.w in layer_\*-model_states.pt"):
        read([{"0.w": (4, 2), "1.w": (2, 2)}, {"head.w": (2, 3)}], LAYERS)


def test_no_layer_files_at_all():
    with pytest.raises(MissingFiles, match="the model file has no 'module', as with pipeline parallelism"):
        read([{"0.w": (4, 2)}, {"2.w": (2, 3)}], {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint_parallel_dimensions": {"pp_degree": 3}}, "got 2 ranks, 3 stages"),
        ({"checkpoint_parallel_dimensions": {"pp_degree": 1}}, "got 2 ranks, 1 stages, layer files of 1 tensor-par"),
    ],
)
def test_ranks_that_do_not_divide_into_stages(changes: dict[str, Any], message: str):
    with pytest.raises(Disagreement, match=f"do not divide into pipeline stages; {message}"):
        read([{"0.w": (4, 2), "1.w": (2, 2)}, {"2.w": (2, 3), "2.b": (3,)}], LAYERS, **changes)


def test_files_of_more_stages_than_the_save_had():
    with pytest.raises(Disagreement, match="more model-parallel ranks than the save had; expected 1, got rank 1"):
        read([{"0.w": (4, 2)}, {"1.w": (2, 2)}], LAYERS, mp_world_size=1)


def test_a_layer_that_two_files_hold():
    files = [("layer_01-model_states.pt", {"w": half(2)}), ("layer_001-model_states.pt", {"w": half(2)})]
    raws = [
        RawFile(kind=FileKind.LAYER, name=parse(name)[1], path=name, content=content, container="torch zip")  # type: ignore[index]
        for name, content in files
    ]
    with pytest.raises(DamagedFile, match=r"1.w is in two layer files \(at layer_001"):
        read_layers(raws)


# --- which layer a tied module is ------------------------------------------------------------------------------------


def layers(**shapes: tuple[int, ...]) -> dict[str, LocatedTensor]:
    """`l0_w=(4, 2)` is the tensor `0.w`."""
    return {name.removeprefix("l").replace("_", ".", 1): half(*shape) for name, shape in shapes.items()}


E = "tied_modules.e.w"


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        # The parameters of layers 1, 2 and 3 are trained under their own names.
        ([{E: 8, "1.w": 4}, {E: 8, "2.w": 4, "3.w": 8}], "0.w"),
        # Layer 3 has as many elements, but lies behind what the second stage is known to have: not on the first.
        ([{E: 8, "1.w": 4}, {E: 8, "2.w": 4}], "0.w"),
        # The module is used on the second stage only, so layer 0 is too early.
        ([{"1.w": 4}, {E: 8, "2.w": 4}], "3.w"),
    ],
)
def test_the_layer_follows_from_names_sizes_and_the_stage(stages: list[dict[str, int]], expected: str):
    assert tied_names(stages, layers(l0_w=(4, 2), l1_w=(2, 2), l2_w=(4,), l3_w=(8,))) == {E: expected}


def test_a_layer_that_is_trained_under_its_own_name_is_no_tied_one():
    assert tied_names([{E: 8, "1.w": 8}], layers(l0_w=(4, 2), l1_w=(4, 2))) == {E: "0.w"}


def test_all_parameters_of_a_tied_module_must_be_the_layers():
    known = layers(l0_w=(4, 2), l2_w=(4, 2), l2_b=(4,))
    tied = {E: 8, "tied_modules.e.b": 4}
    assert tied_names([tied], known) == {E: "2.w", "tied_modules.e.b": "2.b"}


def test_a_buffer_of_the_same_size_is_no_parameter():
    known = {"0.w": tensor(8, dtype=DType.I64), "1.w": half(8)}
    assert tied_names([{E: 8}], known) == {E: "1.w"}


def test_no_layer_fits():
    with pytest.raises(Disagreement, match=r"expected one that fits, got none \(at tied_modules.e\)"):
        tied_names([{E: 9}], layers(l0_w=(4, 2)))


def test_several_layers_fit():
    with pytest.raises(UnsupportedLayout, match=r"expected one that fits, got layer 0, layer 1 \(at tied_modules.e"):
        tied_names([{E: 8}], layers(l0_w=(4, 2), l1_w=(4, 2)))


def test_a_layer_between_two_stages_may_be_eithers():
    """Stage 0 is known to reach layer 1, stage 1 to begin at layer 4: layers 2 and 3 may belong to both."""
    known = layers(l1_w=(2,), l2_w=(8,), l3_w=(8,), l4_w=(2,))
    with pytest.raises(UnsupportedLayout, match="got layer 2, layer 3"):
        tied_names([{"1.w": 2}, {E: 8, "4.w": 2}], known)


def test_two_tied_modules_that_could_be_the_same_layer():
    with pytest.raises(UnsupportedLayout, match="two tied layers could be the same layer"):
        tied_names([{E: 8, "tied_modules.f.w": 8}], layers(l0_w=(4, 2)))


def test_tensors_of_the_module_that_are_no_layers_do_not_count():
    assert tied_names([{E: 8}], {"head.w": half(8), "0.w": half(8)}) == {E: "0.w"}


def test_the_tied_layers_of_a_universal_checkpoint():
    """Where several layers fit nothing is lost but the layer's own name."""
    known = layers(l0_w=(4, 2), l1_w=(2, 2), l2_w=(4,))
    assert known_layers({E: tensor(4, 2)}, known, is_whole=True) == {E: "0.w"}
    assert known_layers({E: tensor(4, 2)}, layers(l0_w=(4, 2), l1_w=(4, 2)), is_whole=True) == {}
    # Of tensor-parallel ranks the layer has a part.
    parts = layers(l0_w=(2, 2))
    assert known_layers({E: tensor(4, 2)}, parts, is_whole=False) == {E: "0.w"}
    with pytest.raises(Disagreement):
        known_layers({E: tensor(4, 2)}, parts, is_whole=True)
