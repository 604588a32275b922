"""What `load_into_engine` promises, tried on engines of several ranks. Each check runs on every rank."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from . import zoo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FROZEN = ("layers.0.up", "layers.1.down")
ENDINGS = (".weight", "")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An engine: what differs from a plain one at stage 2 in bf16."""

    stage: int = 2
    dtype: str = "bf16"
    zero: dict[str, Any] = field(default_factory=dict)
    endings: tuple[str, ...] = ("",)
    freeze: tuple[str, ...] = ()
    layers: int = 2
    accumulate: int = 1
    seed: int = 1
    lr: float = 3e-3
    scheduled: bool = False


def started(plan: Plan) -> Any:
    """A new engine; its buffers are those of its seed as well."""
    import deepspeed

    deepspeed.init_distributed("gloo")
    torch.manual_seed(plan.seed)
    model = zoo.TinyLM(layers=plan.layers)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(plan.freeze))
        parameter.data += 0.1 * torch.randn(parameter.shape)
    model.buffers_of_all_kinds.positions += plan.seed
    groups: list[dict[str, Any]] = [
        {"params": [], "lr": plan.lr * (1 + index), "weight_decay": 0.1 * index} for index in range(len(plan.endings))
    ]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[next(i for i, end in enumerate(plan.endings) if name.endswith(end))]["params"].append(parameter)
    optimizer = torch.optim.AdamW(groups)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5) if plan.scheduled else None
    precision: dict[str, Any] = {plan.dtype: {"enabled": True}} if plan.dtype != "fp32" else {}
    if plan.dtype == "fp16":
        precision["fp16"]["initial_scale_power"] = 7
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": plan.accumulate,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": plan.stage, **plan.zero},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        **precision,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, lr_scheduler=scheduler, config=config)
    return engine


def trained(engine: Any, steps: int, seed: int) -> list[float]:
    """The losses of so many micro-steps, on data of this rank."""
    torch.manual_seed(seed + dist.get_rank())
    losses = []
    for _ in range(steps):
        loss = engine(torch.randint(0, zoo.VOCABULARY, (2, 5)))
        losses.append(float(loss.detach()))
        engine.backward(loss)
        engine.step()
    return losses


def saved(plan: Plan, folder: Path, *, steps: int = 3, **client_state: Any) -> Any:
    """An engine that has trained and saved into `folder`."""
    engine = started(plan)
    trained(engine, steps, 10)
    engine.save_checkpoint(str(folder), client_state=client_state)
    dist.barrier()
    return engine


def values(engine: Any) -> dict[str, torch.Tensor]:
    """Every parameter and buffer of the module, whole."""
    import deepspeed

    found = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            found[name] = parameter.detach().clone()
    return found | {name: buffer.clone() for name, buffer in engine.module.named_buffers()}


def states(engine: Any) -> dict[str, torch.Tensor]:
    """Masters and moments by DeepSpeed's own getters, whole. Below stage 3 they know no moments but those of the first
    param group after a step (`_lazy_init_hp_params_optimizer_state` is called before the others have theirs)."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    found: dict[str, torch.Tensor] = {}
    if engine.zero_optimization_stage() < 3 and len(engine.optimizer.param_groups) > 1:
        return found
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            found[name] = safe_get_full_fp32_param(parameter).clone()
            for key in ("exp_avg", "exp_avg_sq"):
                found[f"{name}.{key}"] = safe_get_full_optimizer_state(parameter, key).clone()
    return found


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], *, but: tuple[str, ...] = ()) -> None:
    assert one.keys() == other.keys()
    differing = [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]
    assert differing == [name for name in differing if name.endswith(("scratch", *but))], differing


def raised(call: Callable[[], Any], kind: str, words: str) -> None:
    """The call raises an error of this class with these words, on this rank."""
    try:
        call()
    except Exception as error:
        assert type(error).__name__ == kind and words in str(error), f"{type(error).__name__}: {error}"
        return
    msg = f"no {kind} on rank {dist.get_rank()}"
    raise AssertionError(msg)


def load(engine: Any, folder: Path, **how: Any) -> Any:
    from zeroconsolidate import load_into_engine

    return load_into_engine(engine, folder, **how)


def goes_on(folder: Path, plan: Plan, **changes: Any) -> None:
    """All of it is there, and the next losses are those of the engine that went on."""
    engine = saved(plan, folder, steps=4, epoch=7, rng=torch.arange(3))
    held, masters = values(engine), states(engine)
    counted = (engine.global_steps, engine.global_samples, engine.skipped_steps, engine.micro_steps)
    groups = [{k: v for k, v in group.items() if k != "params"} for group in engine.optimizer.param_groups]
    scaler = {key: value for key, value in vars(engine.optimizer.loss_scaler).items() if key != "dtype"}
    scheduled = engine.lr_scheduler.state_dict() if plan.scheduled else None
    expected = trained(engine, 4, 20)
    other = started(Plan(**vars_of(plan), seed=2, lr=1e-5, **changes))
    report = load(other, folder)
    assert report.complete and report.step == counted[0] and report.client_state["epoch"] == 7, report
    assert torch.equal(report.client_state["rng"], torch.arange(3))
    assert_same(values(other), held)
    assert_same(states(other), masters)
    assert counted == (other.global_steps, other.global_samples, other.skipped_steps, other.micro_steps)
    assert groups == [{k: v for k, v in group.items() if k != "params"} for group in other.optimizer.param_groups]
    assert scaler == {key: value for key, value in vars(other.optimizer.loss_scaler).items() if key != "dtype"}
    if plan.scheduled:
        assert other.lr_scheduler.state_dict() == scheduled
    assert trained(other, 4, 20) == expected


def vars_of(plan: Plan) -> dict[str, Any]:
    """The fields of a plan that an engine that resumes has in common with it."""
    return {key: getattr(plan, key) for key in plan.__dataclass_fields__ if key not in ("seed", "lr")}


def plain(folder: Path) -> None:
    """Stage 2, a scheduler, accumulated gradients, a loss scale."""
    goes_on(folder, Plan(dtype="fp16", scheduled=True, accumulate=2, endings=ENDINGS))


def striped(folder: Path) -> None:
    """Stage 3, frozen parameters, some parameters whole on every rank, sub-groups."""
    zero = {"stage3_param_persistence_threshold": 20, "sub_group_size": 60}
    goes_on(folder, Plan(stage=3, zero=zero, freeze=FROZEN, endings=ENDINGS))


def offloaded(folder: Path) -> None:
    """Stage 3, optimizer and parameters on the CPU."""
    zero = {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
    goes_on(folder, Plan(stage=3, zero=zero, freeze=FROZEN))


def round_robin(folder: Path) -> None:
    """What DeepSpeed's setters would put into other parameters' places: the next losses tell."""
    plan = Plan(zero={"round_robin_gradients": True})
    engine = saved(plan, folder)
    held, expected = values(engine), trained(engine, 3, 20)
    other = started(Plan(**vars_of(plan), seed=2))
    load(other, folder)
    assert_same(values(other), held)
    assert trained(other, 3, 20) == expected


def warm(folder: Path) -> None:
    """An engine that has trained takes it as a new one does."""
    engine = saved(Plan(stage=1), folder)
    masters, expected = states(engine), trained(engine, 3, 20)
    other = started(Plan(stage=1, seed=2))
    trained(other, 2, 30)
    load(other, folder)
    assert_same(states(other), masters)
    assert trained(other, 3, 20) == expected


def unequal(folder: Path) -> None:
    """If one rank fails, all raise, and nobody waits."""
    saved(Plan(), folder / "a")
    saved(Plan(), folder / "b", steps=2)
    engine, rank = started(Plan(seed=2)), dist.get_rank()
    before = values(engine)
    kinds = [("RankFailed", "rank 1 could not load its part"), ("NotACheckpoint", "there is no such directory")]
    raised(lambda: load(engine, folder / ("a" if rank == 0 else "nothing")), *kinds[rank])
    raised(lambda: load(engine, folder / "ab"[rank]), "Disagreement", "the ranks do not see the same checkpoint")
    assert_same(values(engine), before)
    if rank == 1:  # a file that ends early after it was looked at
        from zeroconsolidate.loading import engine as loading

        read, calls = loading.read_range, 0

        def fails(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 9:
                msg = "the disk is gone"
                raise OSError(msg)
            return read(*args)

        loading.read_range = fails
    kinds = [("RankFailed", "OSError: the disk is gone"), ("OSError", "the disk is gone")]
    raised(lambda: load(engine, folder / "a"), *kinds[rank])
    load(engine, folder / "a")  # and it can be done again


def other_names(folder: Path) -> None:
    """Names that only one of them has."""
    saved(Plan(stage=3, layers=1), folder)
    engine = started(Plan(layers=2, seed=2))
    missing = [name for name, _ in engine.module.named_parameters() if name.startswith("layers.1")]
    before = values(engine)
    raised(lambda: load(engine, folder), "WrongNames", "the checkpoint has no layers.1.scale, layers.1.norm.weight")
    assert_same(values(engine), before)
    report = load(engine, folder, strict=False)
    assert set(report.missing) == set(missing) and not report.unexpected and not report.complete
    after = values(engine)
    assert all(torch.equal(after[name], before[name]) for name in missing)
    assert not torch.equal(after["embed.weight"], before["embed.weight"])
    smaller = started(Plan(layers=0, seed=2))
    report = load(smaller, folder, strict=False)
    assert report.unexpected and all(name.startswith("layers.0") for name in report.unexpected), report
    trained(smaller, 1, 5)


def weights_alone(folder: Path) -> None:
    """`optimizer=False` counts and schedules nothing."""
    held = values(saved(Plan(stage=3, freeze=FROZEN), folder))
    engine = started(Plan(seed=2, freeze=FROZEN))
    trained(engine, 2, 30)
    moments = {name: value for name, value in states(engine).items() if "exp_avg" in name}
    load(engine, folder, optimizer=False)
    assert_same(values(engine), held)
    assert engine.global_steps == 2
    assert_same({name: value for name, value in states(engine).items() if "exp_avg" in name}, moments)


def other_training(folder: Path) -> None:
    """Param groups that are divided otherwise, and parameters that were frozen."""
    saved(Plan(endings=ENDINGS), folder / "groups")
    engine = started(Plan(seed=2))
    raised(lambda: load(engine, folder / "groups"), "Disagreement", "differ in lr, weight_decay")
    report = load(engine, folder / "groups", strict=False)
    assert "differ in lr, weight_decay: these stay" in report.notes[0], report.notes
    assert engine.optimizer.param_groups[0]["lr"] == 3e-3
    saved(Plan(freeze=FROZEN), folder / "frozen")
    raised(lambda: load(engine, folder / "frozen"), "WrongNames", "no optimizer state of layers.0.up.weight")
    report = load(engine, folder / "frozen", strict=False)
    assert report.complete
    assert engine.optimizer.optimizer.state[engine.optimizer.single_partition_of_fp32_groups[0]]["step"] == 3


def saved_again(folder: Path) -> None:
    """What it saves is what it was given."""
    from zeroconsolidate import open_checkpoint

    saved(Plan(stage=3, freeze=FROZEN), folder / "a")
    engine = started(Plan(seed=2, freeze=FROZEN, zero={"round_robin_gradients": True}))
    load(engine, folder / "a")
    engine.save_checkpoint(str(folder / "b"))
    dist.barrier()
    one, other = open_checkpoint(folder / "a"), open_checkpoint(folder / "b")
    assert_same({n: view.load() for n, view in one.items()}, {n: view.load() for n, view in other.items()})


CHECKS: dict[str, Callable[[Path], None]] = {
    check.__name__: check
    for check in (
        plain,
        striped,
        offloaded,
        round_robin,
        warm,
        unequal,
        other_names,
        weights_alone,
        other_training,
        saved_again,
    )
}


def run(names: list[str], root: Path) -> None:
    """Run these checks, one after the other, and say on rank 0 which are done."""
    for name in names:
        CHECKS[name](root / name)
        dist.barrier()
        if dist.get_rank() == 0:
            with (root / "done").open("a") as done:
                done.write(f"{name}\n")
