"""Universal checkpoints: a folder a parameter, and the model files of the checkpoint they were made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from catalogs import BF16, half, model, of_files, stage3, tensor
from fixtures import FIXTURES

import zeroconsolidate
from zeroconsolidate.archive.inert import Inert
from zeroconsolidate.dtypes import DType
from zeroconsolidate.errors import DamagedFile, Disagreement, MissingFiles
from zeroconsolidate.plan.sources import sources

if TYPE_CHECKING:
    from pathlib import Path

STATE = {"zero/optimizer_state.pt": {"zero_stage": Inert("ZeroStageEnum", (2,)), "param_groups": [{"lr": 0.1}]}}


def universal(masters: dict[str, Any], *, stage: int = 2, state: Any = STATE, **changes: Any) -> Any:
    """The catalog of model files and one folder a parameter: `masters`, by name, as saved."""
    folders = {f"zero/{name}/fp32.pt": {"param": master} for name, master in masters.items()}
    name = "zero_pp_rank_0_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt"
    told = (stage3 if stage == 3 else model)(**({"dp_world_size": 1} | changes))
    return of_files({name: told, **folders, **state})


def test_masters_are_the_folders_and_the_rest_is_the_model_files():
    found = universal({"a": tensor(3, 2), "b": tensor(3), "n": tensor(2)})
    assert found.origin.wrapper == "universal checkpoint"
    assert (found.origin.stage, found.origin.param_groups) == (2, ({"lr": 0.1},))
    assert {name: source.role for name, source in sources(found).items()} == {
        "a": "trainable", "b": "trainable", "n": "buffer"
    }  # fmt: skip
    assert list(found.module) == ["a", "b"]
    assert "dir/t/zero/a/fp32.pt" in found.files


def test_the_state_file_may_say_nothing():
    found = universal({"a": tensor(3, 2), "b": tensor(3)}, state={"zero/optimizer_state.pt": {}})
    assert (found.origin.stage, found.origin.param_groups) == (0, ())
    assert universal({"a": tensor(3, 2), "b": tensor(3)}, state={}).origin.stage == 0


def test_a_parameter_of_stage_3_gets_its_shape_from_the_model_file():
    found = universal({"a": tensor(6), "b": tensor(3)}, stage=3)
    assert sources(found)["a"].shape == (3, 2)
    assert sources(found)["a"].recipe.is_plain


@pytest.mark.parametrize("master", [tensor(7), tensor(6, stride=(2,))])
def test_a_parameter_of_stage_3_that_does_not_fit_its_shape(master: Any):
    with pytest.raises(Disagreement, match=r"expected 6, its shape is \(3, 2\) \(at a\)"):
        universal({"a": master, "b": tensor(3)}, stage=3)


def test_a_folder_without_a_tensor():
    with pytest.raises(DamagedFile, match=r"no usable 'param'; got int \(at zero/a/fp32.pt\)"):
        universal({"a": 7, "b": tensor(3)})


@pytest.mark.parametrize("stage", [1, 3])
def test_a_lost_folder_is_an_error_and_no_frozen_parameter(stage: int):
    """Its 16-bit copy is in the model file, and frozen parameters of stage 1 are listed nowhere."""
    changes = {"frozen_param_shapes": None} if stage == 1 else {}
    with pytest.raises(MissingFiles, match=r"lacks trained parameters; missing zero/b/fp32\.pt") as caught:
        universal({"a": tensor(6) if stage == 3 else tensor(3, 2)}, stage=stage, **changes)
    assert caught.value.files == ("zero/b/fp32.pt",)


def test_many_lost_folders_are_counted():
    shapes = {f"p{i}": (1,) for i in range(9)}
    with pytest.raises(MissingFiles, match=r"zero/p6/fp32\.pt and 2 more"):
        universal({"p0": tensor(1)}, param_shapes=[shapes], module={name: half(1) for name in shapes})


@pytest.mark.parametrize(
    ("config", "dtype"),
    [({"bf16": {"enabled": True}}, BF16), ({"fp16": {"enabled": True}}, DType.F16), ({"bf16": 7}, DType.F32)],
)
def test_a_pipelines_dtype_is_that_of_its_config(config: dict[str, Any], dtype: DType):
    """`ds_to_universal` leaves its layers behind, and with them every copy."""
    found = universal({"a": tensor(3, 2), "b": tensor(3)}, module=None, buffer_names=[], ds_config=config)
    assert found.origin.training_dtype is dtype


@pytest.mark.parametrize("stage", [2, 3])
def test_of_copies_for_every_stage_the_files_of_the_saved_one_are_read(stage: int):
    told = {"dp_world_size": 1}
    files = {
        "zero_pp_rank_0_mp_rank_00_model_states.pt": stage3(**told),
        "mp_rank_00_model_states.pt": model(**told),
        **{f"zero/{name}/fp32.pt": {"param": tensor(6 // size)} for name, size in (("a", 1), ("b", 2))},
        "zero/optimizer_state.pt": {"zero_stage": stage},
    }
    if stage != 3:
        files["zero/a/fp32.pt"] = {"param": tensor(3, 2)}
    found = of_files(files)
    kept = {2: "mp_rank_00", 3: "zero_pp_rank_0_mp_rank_00"}[stage]
    assert [path for path in found.files if "model_states" in path] == [f"dir/t/{kept}_model_states.pt"]


@pytest.mark.parametrize("name", ["tied_modules.embed.w", "0.w"])
def test_a_layer_of_a_pipeline_that_is_tied(name: str):
    """The masters have the name of what is tied, the layers' files their own."""
    found = of_files({
        "mp_rank_00_model_states.pt": model(
            dp_world_size=1, module=None, buffer_names=[], param_shapes=[{name: (3, 2), "1.w": (3,)}],
            mp_world_size=1, checkpoint_parallel_dimensions={"pp_degree": 1, "tp_degree": 1},
        ),
        "layer_00-model_states.pt": {"w": half(3, 2, key="0")},
        "layer_01-model_states.pt": {"w": half(3, key="1")},
        f"zero/{name}/fp32.pt": {"param": tensor(3, 2)},
        "zero/1.w/fp32.pt": {"param": tensor(3)},
        **STATE,
    })  # fmt: skip
    assert {name: source.shape for name, source in sources(found).items()} == {"0.w": (3, 2), "1.w": (3,)}


def test_a_pipeline_without_its_layers():
    found = of_files({
        **{
            f"mp_rank_{stage:02d}_model_states.pt": model(
                dp_world_size=1, module=None, buffer_names=[], param_shapes=[{name: (3, 2)}], mp_world_size=2,
                checkpoint_parallel_dimensions={"pp_degree": 2, "tp_degree": 1},
            )
            for stage, name in enumerate("ab")
        },
        **{f"zero/{name}/fp32.pt": {"param": tensor(3, 2)} for name in "ab"},
    })  # fmt: skip
    assert any("its buffers and ties between layers are lost" in note for note in found.notes)


def test_model_files_of_which_none_can_be_read(tmp_path: Path):
    zeroconsolidate.universal(FIXTURES / "z2_w12/checkpoint", tmp_path / "resume")
    for file in (tmp_path / "resume/global_step2_universal").glob("*.pt"):
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DamagedFile, match="the file is truncated"):
        zeroconsolidate.consolidate(tmp_path / "resume", tmp_path / "model")
    with pytest.raises(
        MissingFiles, match=r"no model states can be read; mp_rank_00_model_states.pt: the file is trunc"
    ):
        zeroconsolidate.inspect(tmp_path / "resume")
