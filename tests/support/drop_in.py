"""What DeepSpeed's converter is called for, each once: run with its module and with ours, one import swapped.

The first are those of DeepSpeed's own tests (`tests/unit/checkpoint/test_convert_checkpoint.py`,
`test_shared_weights.py`, `tests/unit/v1/zero/test_zero.py::TestZeroToFP32`), the others what training repositories
call.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from fixtures import FIXTURES
from fixtures_lib.zoo import TinyLM
from safetensors.torch import load_file
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Scenario:
    """One call. `theirs`, `ours` and `why` are for a result that differs."""

    name: str
    run: Callable[[Any, Path], Any]
    theirs: str = ""
    ours: str = ""
    why: str = ""

    @property
    def differs(self) -> bool:
        return bool(self.why)


def case(name: str) -> Path:
    return FIXTURES / name / "checkpoint"


def plain(value: Any) -> Any:
    """A result that can be compared: tensors by dtype, shape and bits."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        bits = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        return str(value.dtype), tuple(value.shape), bits
    if isinstance(value, dict):
        return [(key, plain(each)) for key, each in value.items()]  # in order
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


def outcome(scenario: Scenario, module: Any, folder: Path) -> Any:
    """What comes back; of an error its kind."""
    folder.mkdir()
    try:
        return plain(scenario.run(module, folder))
    except Exception as error:  # noqa: BLE001  (whatever DeepSpeed raises)
        return f"error: {next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == 'builtins')}"


def state_dict(name: str, **arguments: Any) -> Callable[[Any, Path], Any]:
    return lambda module, _: module.get_fp32_state_dict_from_zero_checkpoint(case(name), **arguments)


def loads(module: Any, _: Path) -> Any:
    model = TinyLM()
    model.load_state_dict(module.get_fp32_state_dict_from_zero_checkpoint(case("z2_bf16"), tag="global_step2"))
    return model.state_dict()


def lazy(module: Any, _: Path) -> Any:
    found = module.get_fp32_state_dict_from_zero_checkpoint(case("z3_w3"), lazy_mode=True)
    return {
        name: (tensor.shape, str(tensor.dtype), tensor.contiguous().to(torch.bfloat16).clone())
        for name, tensor in found.items()
    }


def folder_of_the_tag(module: Any, _: Path) -> Any:
    return module._get_fp32_state_dict_from_zero_checkpoint(str(case("z2_bf16") / "global_step2"), True)


def written(out: Path) -> dict[str, Any]:
    """The files, and the state dicts in them."""
    found: dict[str, Any] = {}
    for path in sorted(out.iterdir()):
        kinds: dict[str, Callable[[Path], Any]] = {
            ".bin": lambda path: torch.load(path, weights_only=True),
            ".safetensors": load_file,
            ".json": lambda path: path.read_text(),
        }
        found[path.name] = kinds[path.suffix](path)
    return found


def convert(name: str, **arguments: Any) -> Callable[[Any, Path], Any]:
    def run(module: Any, folder: Path) -> Any:
        module.convert_zero_checkpoint_to_fp32_state_dict(str(case(name)), str(folder / "out"), **arguments)
        return written(folder / "out")

    return run


def convert_dtype(module: Any, folder: Path) -> Any:
    module.convert_zero_checkpoint_to_state_dict(case("z3_bf16"), folder / "fp32")
    module.convert_zero_checkpoint_to_state_dict(
        case("z3_bf16"), folder / "bf16", dtype="bfloat16", max_shard_size="9KB"
    )
    found = written(folder / "bf16")
    weights = found["pytorch_model.bin"]
    smaller = (folder / "bf16/pytorch_model.bin").stat().st_size < (folder / "fp32/pytorch_model.bin").stat().st_size
    same = torch.load(folder / "bf16/pytorch_model.bin")
    return found, smaller, same["head.weight"] is same["embed.weight"], weights


def shared(module: Any, folder: Path) -> Any:
    module.convert_zero_checkpoint_to_fp32_state_dict(case("z3_bf16"), folder / "out")
    found = torch.load(folder / "out/pytorch_model.bin")
    model = TinyLM()
    return found["head.weight"] is found["embed.weight"], str(model.load_state_dict(found, strict=True))


def sizes_of_shards(module: Any, folder: Path) -> Any:
    """Whether each shard is about as large as its tensors."""
    module.convert_zero_checkpoint_to_fp32_state_dict(
        case("models/llm_untied_z2"), folder / "out", max_shard_size="20KB"
    )
    bounds = []
    for path in sorted((folder / "out").glob("*.bin")):
        held = torch.load(path)
        nbytes = sum(tensor.nbytes for tensor in held.values())
        bounds.append(path.stat().st_size < nbytes + 1000 * len(held) + 4000)
    return all(bounds)


def units_of_dtype(module: Any, _: Path) -> Any:
    tensor = torch.arange(16, dtype=torch.float32)
    both = {"weight": tensor, "shared_weight": tensor}
    made = module.to_torch_tensor(both, dtype="bf16")
    empty = module.to_torch_tensor(both, return_empty_tensor=True, dtype="fp16")
    try:
        module.to_torch_tensor(both, dtype="int8")
        said = ""
    except ValueError as error:
        said = str(error).partition(".")[0]
    return made, made["weight"] is made["shared_weight"], str(empty["weight"].dtype), said


def patched(module: Any, folder: Path) -> Any:
    """DeepSpeed's tests replace a function inside of the module."""
    before = module.get_fp32_state_dict_from_zero_checkpoint
    module.get_fp32_state_dict_from_zero_checkpoint = lambda *_, **__: {"weight": torch.ones(2)}
    try:
        module.convert_zero_checkpoint_to_fp32_state_dict("unused", folder / "out", max_shard_size=None)
    finally:
        module.get_fp32_state_dict_from_zero_checkpoint = before
    return written(folder / "out")


def one_file(module: Any, folder: Path) -> Any:
    module.convert_zero_checkpoint_to_fp32_state_dict(case("z2_bf16"), folder / "model.bin")
    return (folder / "model.bin").is_file()


def old_keyword(module: Any, folder: Path) -> Any:
    module.convert_zero_checkpoint_to_fp32_state_dict(case("z2_bf16"), output_file=folder / "model.bin", tag=None)
    return (folder / "model.bin").is_file()


def without_latest(module: Any, folder: Path) -> Any:
    shutil.copytree(case("z2_bf16"), folder / "run")
    (folder / "run/latest").unlink()
    shutil.copytree(folder / "run/global_step2", folder / "run/global_step1")
    return module.get_fp32_state_dict_from_zero_checkpoint(folder / "run")


def without_a_rank(module: Any, folder: Path) -> Any:
    shutil.copytree(case("z2_w4"), folder / "run")
    next((folder / "run").glob("*/*pp_rank_2_*optim*")).unlink()
    return module.get_fp32_state_dict_from_zero_checkpoint(folder / "run")


def load_into_model(module: Any, _: Path) -> Any:
    model = TinyLM()
    back = module.load_state_dict_from_zero_checkpoint(model, case("z3_bf16"))
    return back is model, model.state_dict()


def load_into_another(module: Any, _: Path) -> Any:
    """Names of one side only are no error."""
    model = TinyLM(layers=1)
    model.more = nn.Parameter(torch.zeros(2))
    return module.load_state_dict_from_zero_checkpoint(model, case("z3_bf16"), "global_step2").state_dict()


def load_into_wrapped(module: Any, _: Path) -> Any:
    model = nn.Module()
    model.add_module("net", TinyLM())
    module.load_state_dict_from_zero_checkpoint(model, case("z3_bf16"))
    return torch.equal(model.net.embed.weight, load_file(FIXTURES / "z3_bf16/expected.safetensors")["embed.weight"])


def load_into_nothing(module: Any, _: Path) -> Any:
    module.load_state_dict_from_zero_checkpoint(nn.Linear(2, 2), case("z3_bf16"))
    return "silent"


def helpers(module: Any, _: Path) -> Any:
    folder = str(case("z2_w12") / "global_step2")
    stage3 = str(case("z3_w3") / "global_step2")
    states = module.parse_model_states(module.get_model_state_files(stage3))
    optimizer = module.parse_optim_states(module.get_optim_files(stage3), stage3)
    return (
        module.get_optim_files(folder),
        module.get_model_state_file(folder, 2),
        module.get_model_state_file(stage3, 3),
        [
            (state.buffers, [dict(group) for group in state.param_shapes], state.shared_params, state.ds_version)
            for state in states
        ],
        [optimizer[0] == 3, *optimizer[1:]],
        module.zero3_partitioned_param_info(10, 4),
        module.natural_keys("rank_10"),
        sorted(module.OUTPUT_DTYPE_NAMES),
    )


def no_such_folder(module: Any, folder: Path) -> Any:
    return module.get_fp32_state_dict_from_zero_checkpoint(folder, tag="global_step7")


SCENARIOS = [
    # DeepSpeed's own tests
    Scenario("one param group, stage 1", state_dict("z1_bf16")),
    Scenario("one param group, stage 2", state_dict("z2_w3")),
    Scenario("one param group, stage 3", state_dict("z3_w4")),
    Scenario("two param groups, stage 2", state_dict("z2_groups")),
    Scenario("two param groups, stage 3", state_dict("z3_groups")),
    Scenario("parameters smaller than the number of ranks", state_dict("z3_w12")),
    Scenario("shared weights load with strict=True", loads),
    Scenario("shared weights in a file are one tensor", shared),
    Scenario("bf16, with the size of shards counted in bf16", convert_dtype),
    Scenario("`to_torch_tensor` with dtypes", units_of_dtype),
    Scenario(
        "a test replaces a function inside of the module",
        patched,
        "uses the replacement",
        "FileNotFoundError",
        "files are planned from the checkpoint, not from a dict in memory",
    ),
    # what training repositories call
    Scenario("`exclude_frozen_parameters`", state_dict("z2_frozen", exclude_frozen_parameters=True)),
    Scenario(
        "frozen parameters, stages 2 and 3",
        lambda module, _: [state_dict(name)(module, _) for name in ("z2_frozen", "z3_frozen")],
        "bfloat16 in a dict of float32",
        "float32",
        "the name says fp32; DeepSpeed's later releases cast them, too (#8378)",
    ),
    Scenario(
        "frozen parameters, stage 1",
        state_dict("z1_frozen"),
        "left out",
        "there",
        "the 16-bit copies in the model file have them",
    ),
    Scenario("`lazy_mode=True`, then bf16, tensor by tensor", lazy),
    Scenario("the private function, of the tag's folder", folder_of_the_tag),
    Scenario(
        "`global_step2` itself as `checkpoint_dir`",
        lambda module, _: module.get_fp32_state_dict_from_zero_checkpoint(str(case("z2_bf16") / "global_step2")),
        "ValueError",
        "the weights",
        "what is meant is plain",
    ),
    Scenario(
        "no file `latest`",
        without_latest,
        "ValueError",
        "FileNotFoundError",
        "each error is the built-in that says what is wrong; the message lists the tags",
    ),
    Scenario("no such tag", no_such_folder),
    Scenario(
        "the file of a rank is missing",
        without_a_rank,
        "ValueError",
        "FileNotFoundError",
        "it names the rank, and what is lost of each tensor",
    ),
    Scenario("`pytorch_model.bin`, stage 2", convert("models/llm_untied_z2")),
    Scenario("shards of `.bin`", convert("models/llm_untied_z3", max_shard_size="20KB")),
    Scenario("shards of `.bin` with a shared weight", convert("z3_bf16", max_shard_size="1KB")),
    Scenario("shards of safetensors", convert("models/llm_untied_z2", max_shard_size="20KB", safe_serialization=True)),
    Scenario("`max_shard_size=None`", convert("models/llm_untied_z2", max_shard_size=None)),
    Scenario(
        "shards of `.bin` are as large as their tensors, stage 2",
        sizes_of_shards,
        "no: each has all of the flat buffer",
        "yes",
        "torch.save writes whole storages, and DeepSpeed's tensors are parts of one",
    ),
    Scenario(
        "`safe_serialization=True` with a shared weight",
        convert("z3_bf16", safe_serialization=True),
        "RuntimeError",
        "the file, with the weight under its first name",
        "safetensors has no shared tensors (#8376)",
    ),
    Scenario(
        "`model.bin` as output, as before 0.15.3",
        one_file,
        "a directory `model.bin/`",
        "a file",
        "scripts written for earlier releases mean a file; a warning says so",
    ),
    Scenario(
        "`output_file=`, as before 0.15.3", old_keyword, "TypeError", "a file", "scripts written for earlier releases"
    ),
    Scenario("`load_state_dict_from_zero_checkpoint`", load_into_model),
    Scenario("the same into a module with other names, too", load_into_another),
    Scenario(
        "the same into a wrapped module",
        load_into_wrapped,
        "nothing is loaded, silently",
        "loaded",
        "strict=False hides that no name fits",
    ),
    Scenario(
        "the same into a module without a name in common",
        load_into_nothing,
        "nothing is loaded, silently",
        "ValueError",
        "random weights are the worst result",
    ),
    Scenario("helpers that others import", helpers),
    Scenario(
        "files in torch's older container",
        state_dict("z2_legacy"),
        "RuntimeError",
        "the weights",
        "DeepSpeed maps the file into memory, which that container does not allow",
    ),
    Scenario(
        "stage 0",
        state_dict("layouts/z0_bf16"),
        "TypeError",
        "the weights",
        "the masters are found by name, order and value",
    ),
    Scenario(
        "mixture of experts",
        state_dict("layouts/moe_ep2_z2"),
        "ValueError",
        "the weights",
        "experts have files of their own",
    ),
]


def differing() -> Iterator[Scenario]:
    return (scenario for scenario in SCENARIOS if scenario.differs)
