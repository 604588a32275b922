"""Well-formed pickles with content that lies: names, shapes, counts, and structures that contain themselves."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from fixtures import FIXTURES
from hostile import MODEL, refusal
from zero_model import Run, save

import zeroconsolidate
from zeroconsolidate.adapters.peft_config import read_peft_config
from zeroconsolidate.archive.located import LocatedStorage, LocatedTensor
from zeroconsolidate.catalog.tensor_parallel import joins
from zeroconsolidate.cli.command import main
from zeroconsolidate.dtypes import DType
from zeroconsolidate.errors import DamagedFile, ZeroConsolidateError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def forge(folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], object], *, stage: int = 2) -> Path:
    """A checkpoint of two ranks, whose files went through `change(model content, optimizer content)`."""
    run = Run(
        stage=stage,
        world_size=2,
        groups=[{"a": torch.randn(3, 4), "b": torch.randn(5)}],
        frozen={"f": torch.randn(2, 2).bfloat16()},
        buffers={"n": torch.tensor([1, 2])},
        ties={"t": "a"},
    )
    tag = next(path for path in save(run, folder).iterdir() if path.is_dir())
    optimizers, models = sorted(tag.glob("*optim_states.pt")), sorted(tag.glob("*model_states.pt"))
    # Stages 1 and 2 have one model file for all ranks: it is changed with the first, a copy with the others.
    pairs = [(o, torch.load(m, weights_only=False)) for o, m in zip(optimizers, models * 2, strict=False)]
    for number, (path, model) in enumerate(pairs):
        optimizer = torch.load(path, weights_only=False)
        change(model, optimizer["optimizer_state_dict"])
        torch.save(optimizer, path)
        if number < len(models):
            torch.save(model, models[number])
    return folder


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def doubled() -> Any:
    """60 levels, each twice: 2**60 items for whoever walks it."""
    value: Any = 1
    for _ in range(60):
        value = [value, value]
    return value


def both(model: dict[str, Any], name: Any) -> None:
    model["param_shapes"][0][name] = model["param_shapes"][0].pop("a")
    model["module"][name] = model["module"].pop("a")
    model["shared_params"] = {}


NAMES = {
    "separator": "layers/0",
    "upwards": "../../etc/passwd",
    "absolute": "/etc/passwd",
    "backslash": "a\\b",
    "dot": ".",
    "dots": "..",
    "newline": "a\nb",
    "nul": "a\0b",
    "escape": "\x1b[2J",
    "direction": "a\u202eb",
    "surrogate": "a\ud800",
    "empty": "",
    "long": "a" * 1025,
    "safetensors' own": "__metadata__",
    "number": 7,
    "bytes": b"a",
    "nothing": None,
    "tuple": ("a",),
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_of_parameters(tmp_path, name):
    said = refusal("inspect", str(forge(tmp_path, lambda model, _: both(model, name))))
    assert "a parameter's name" in said


@pytest.mark.parametrize("place", ["module", "frozen_param_shapes", "frozen_param_fragments"])
def test_names_everywhere(tmp_path, place):
    def change(model, _):
        model[place]["x/y"] = model[place].pop("f")

    assert "reads like a path" in refusal("inspect", str(forge(tmp_path, change)))


@pytest.mark.parametrize("place", ["param_shapes", "module"])
def test_names_that_only_one_of_them_has(tmp_path, place):
    def change(model, _):
        held = model[place][0] if place == "param_shapes" else model[place]
        held["x/y"] = held.pop("b")

    assert "reads like a path" in refusal("inspect", str(forge(tmp_path, change)))


@pytest.mark.parametrize("change", [
    lambda model, _: model.update(buffer_names=["../n"]),
    lambda model, _: model.update(shared_params={"../n": "a"}),
    lambda model, _: model.update(shared_params={"t": "\x1b"}),
    lambda model, _: model["module"].update({"x\n_extra_state": None}),
    lambda _, optimizer: optimizer["base_optimizer_state"]["state"][0].update({"../m": torch.zeros(3)}),
])  # fmt: skip
def test_names_of_other_things(tmp_path, change):
    said = refusal("convert", str(forge(tmp_path / "c", change)), str(tmp_path / "o"))
    assert "a parameter's name" in said


SHAPES = {
    "negative": (3, -4),
    "beyond 64 bits": (1 << 62, 1 << 62),
    "product beyond 64 bits": (1 << 40, 1 << 40),
    "wraps to 12": (1 << 62, 1 << 62, 12),
    "long number": (1 << 500, 0),
    "float": (3.0, 4),
    "boolean": (True, 12),
    "text": "34",
    "nothing": None,
    "65 dimensions": (1,) * 65,
    "endless": endless(),
    "doubled": doubled(),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_shapes(tmp_path, shape):
    said = refusal("inspect", str(forge(tmp_path, lambda model, _: model["param_shapes"][0].update(a=shape))))
    assert "impossible shape" in said


def test_a_shape_larger_than_the_partitions(tmp_path):
    def change(model, _):
        model["param_shapes"][0]["b"] = torch.Size([1 << 50])
        model["module"].pop("b")

    assert "do not add up" in refusal("convert", str(forge(tmp_path / "c", change)), str(tmp_path / "o"))


@pytest.mark.parametrize("world_size", [0, -1, 1 << 17 | 1, 1 << 40, 1 << 600])
def test_world_sizes(tmp_path, world_size):
    """Ranks that miss their files are listed, so there may not be 2**40 of them."""
    said = refusal("inspect", str(forge(tmp_path, lambda model, _: model.update(dp_world_size=world_size))))
    assert "'dp_world_size' is impossible" in said


def test_no_optimizer_and_no_world_size(tmp_path):
    folder = forge(tmp_path / "c", lambda model, _: model.update(dp_world_size=None))
    for path in folder.rglob("*optim_states.pt"):
        path.unlink()
    assert "missing" in refusal("convert", str(folder), str(tmp_path / "o"))


ODD = {
    "step": lambda o: o["base_optimizer_state"]["state"][0].update(step=1 << 600),
    "partition count": lambda o: o.update(partition_count=doubled()),
    "negative count": lambda o: o.update(partition_count=[-2]),
    "alignment": lambda o: o.update(param_alignment_paddings=doubled()),
    "negative alignment": lambda o: o.update(param_alignment_paddings=[[-1, 0]]),
    "alignment beyond": lambda o: o.update(param_alignment_paddings=[[1 << 70, 0]]),
    "flat groups": lambda o: o.update(single_partition_of_fp32_groups=doubled()),
    "endless groups": lambda o: o.update(single_partition_of_fp32_groups=endless()),
    "no groups": lambda o: o.pop("single_partition_of_fp32_groups"),
    "two-dimensional group": lambda o: o.update(single_partition_of_fp32_groups=[torch.zeros(3, 3)]),
    "strided group": lambda o: o.update(single_partition_of_fp32_groups=[torch.zeros(18)[::2]]),
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_optimizer_states_that_make_no_sense(tmp_path, change):
    folder = forge(tmp_path / "c", lambda _, optimizer: change(optimizer))
    refusal("convert", str(folder), str(tmp_path / "o"))


@pytest.mark.parametrize("value", [endless(), doubled(), {"lr": doubled(), "x": endless()}], ids=["e", "d", "both"])
def test_settings_are_flat(tmp_path, value, capsys):
    """They are printed: what contains itself is left out."""

    def change(_, optimizer):
        optimizer["base_optimizer_state"]["param_groups"][0]["betas"] = value
        optimizer["base_optimizer_state"]["param_groups"][0]["long"] = list(range(17))
        optimizer["base_optimizer_state"]["param_groups"][0]["eps"] = 1e-8

    folder = forge(tmp_path, change)
    assert main(["inspect", "--json", str(folder)]) == 0
    assert '"betas"' not in capsys.readouterr().out
    assert "eps" in zeroconsolidate.inspect(folder).param_groups[0]


@pytest.mark.parametrize("key", ["of the client", "ds_config", "lr_scheduler"])
def test_what_is_not_read_does_no_harm(tmp_path, key):
    def change(model, _):
        knot: dict[str, Any] = {"many": doubled(), "endless": endless()}
        knot["self"] = knot["optimizer"] = knot
        model[key] = knot

    assert zeroconsolidate.inspect(forge(tmp_path, change)).world_size == 2


def test_chains_of_ties_are_short(tmp_path):
    """Every alias of 20,000 would walk to the end."""

    def change(model, _):
        model["shared_params"] = {f"t{i}": f"t{i + 1}" for i in range(20_000)}

    assert zeroconsolidate.inspect(forge(tmp_path, change)).world_size == 2


def test_ties_in_circles(tmp_path):
    info = zeroconsolidate.inspect(forge(tmp_path, lambda model, _: model.update(shared_params={"x": "y", "y": "x"})))
    assert not {"x", "y"} & {tensor.name for tensor in info.tensors}


def test_an_empty_stripe_with_an_offset(tmp_path):
    def change(model, _):
        model["frozen_param_shapes"]["f"] = torch.Size([1 << 40])

    said = refusal("convert", str(forge(tmp_path / "c", change, stage=3)), str(tmp_path / "o"))
    assert "does not fit; expected 549755813888 elements of BF16" in said


def test_ties_are_found_by_text():
    """A key of integers could be made to collide, one of text can not."""
    storage = LocatedStorage(file="f", key="k", start=0, numel=9, dtype=DType.F32, big_endian=False)
    identity = LocatedTensor(storage, 1, (2, 3), (3, 1)).identity
    assert isinstance(identity, str)
    others = [
        LocatedTensor(storage, 2, (2, 3), (3, 1)),
        LocatedTensor(storage, 1, (3, 2), (3, 1)),
        LocatedTensor(storage, 1, (2, 3), (1, 2)),
    ]
    assert identity not in {other.identity for other in others}


@pytest.mark.parametrize("name", ["a\x1b[2J", "__metadata__", "a\udcff", "x" * 250 + "\n"])
def test_names_of_a_universal_checkpoint(tmp_path, name):
    """They are the names of folders."""
    shutil.copytree(FIXTURES / "layouts/universal_z1/checkpoint", tmp_path / "c")
    (tmp_path / "c/global_step3_universal/zero/embed.weight").rename(tmp_path / "c/global_step3_universal/zero" / name)
    assert "a parameter's name" in refusal("inspect", str(tmp_path / "c"))


def test_terminals_are_not_steered_by_errors(tmp_path):
    """Names of folders are told where `latest` is wrong; `refusal` looks at what is printed."""
    folder = forge(tmp_path / "c", lambda *_: None)
    (folder / (folder / "latest").read_text()).rename(folder / "evil\x1b]0;title\x07")
    assert "evil\\x1b]0;title" in refusal("inspect", str(folder))


def test_errors_are_short(tmp_path):
    def change(model, _):
        model["param_shapes"] = [{f"p{i}": torch.Size([1]) for i in range(3000)}]
        model["module"] = {}

    assert len(refusal("inspect", str(forge(tmp_path, change)))) < 1000


def test_the_forged_model_file_is_the_one_that_is_read(tmp_path):
    folder = forge(tmp_path, lambda model, _: model.update(global_steps=41))
    assert zeroconsolidate.inspect(folder).step == 41
    assert next(folder.rglob(MODEL)).exists()


# --- what is said about tensor parallelism, and adapters


def info_of(**more: Any) -> dict[str, Any]:
    return {"universal_checkpoint_version": 0.4, **more}


SUB = {"patterns": ["a"], "partition_dim": 0, "shape": [6, 4]}
INFOS = {
    "pattern that takes for ever": info_of(tp_replicated_parameter_patterns=["^(a+)+$"]),
    "many wildcards": info_of(tp_replicated_parameter_patterns=[".*.*.*.*.*x"]),
    "pattern that doubles": info_of(tp_replicated_parameter_patterns=[doubled()]),
    "sub-parameters of a pattern that doubles": info_of(parameter_with_sub_params=[SUB | {"patterns": [doubled()]}]),
    "8192 sub-parameters": info_of(parameter_with_sub_params=[SUB | {"shape": [8192, 4]}],
                                   sub_param_shard_widths={"a": [[1, 1]] * 8192}),
    "2**40 sub-parameters": info_of(parameter_with_sub_params=[SUB | {"shape": [1 << 40, 4]}]),
    "shape that doubles": info_of(parameter_with_sub_params=[SUB | {"shape": [doubled(), 4]}]),
    "other sizes that double": info_of(parameter_with_sub_params=[SUB | {"shape": [(6,), doubled()]}]),
    "widths that double": info_of(parameter_with_sub_params=[SUB | {"shape": [(6,), 4]}],
                                  sub_param_shard_widths={"a": doubled()}),
    "widths that are no list": info_of(parameter_with_sub_params=[SUB | {"shape": [(6,), 4]}],
                                       sub_param_shard_widths={"a": 7}),
    "map of a version that doubles": info_of(affine_map={"version": doubled(), "params": {"a": {}}}),
    "map of nothing": info_of(affine_map={"version": 1, "params": {"a": doubled()}}),
    "map of odd ranks": info_of(affine_map={"version": 1, "params": {"a": {"ranks": {"²": 1, "9" * 5000: 2}}}}),
    "reason that doubles": info_of(autotp_unsupported_parameter_patterns={"a": doubled()}),
}  # fmt: skip


@pytest.mark.parametrize("info", INFOS.values(), ids=INFOS)
def test_rules_of_tensor_parallelism(info):
    shapes = [(8192, 4), (8192, 4)]
    with pytest.raises(ZeroConsolidateError) as caught:
        joins(info, ["a", "a" * 1000], {"a": shapes, "a" * 1000: shapes}, 2)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("key", ["(a+)+", ".*.*.*", "a|b", "(", "[", "a{1000}"])
def test_patterns_of_adapters(key):
    config = read_peft_config({"peft_type": "LORA", "rank_pattern": {key: 4}})
    with pytest.raises(ZeroConsolidateError, match="a pattern of the adapter"):
        config.rank_of("a" * 1000)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1 << 600, -1, 0, True, "4", [4]])
def test_numbers_of_adapters(value):
    with pytest.raises(DamagedFile):
        read_peft_config({"peft_type": "LORA", "rank_pattern": {"a": value}, "lora_alpha": value})


def test_ranks_and_groups_that_are_only_claimed(tmp_path):
    """A hundred thousand ranks of a thousand groups: what is lost of them would not fit into memory."""

    def change(model, _):
        model["dp_world_size"] = 100_000
        model["param_shapes"] = [{f"p{i}": torch.Size([1])} for i in range(1000)]
        model["module"] = {f"p{i}": torch.zeros(1) for i in range(1000)}
        model["shared_params"] = {}

    folder = forge(tmp_path, change)
    for path in folder.rglob("*optim_states.pt"):
        path.unlink()
    assert "too many files are missing to say what they held" in refusal("inspect", str(folder))
