"""Train with DeepSpeed in fp32, save, train on in a plain loop of torch: are the losses those of DeepSpeed's own run?

    python tools/train_on_in_torch.py                                  AdamW at stages 2 and 3, on one and two ranks
    python tools/train_on_in_torch.py --stages 1 --ranks 2 --optimizer SGD

The loop takes its weights from `open_checkpoint` and its optimizer's state from `to_torch_optimizer`: of the checkpoint
and of what `convert --optimizer` made of it, with the optimizer given and without. One process computes what all ranks
did, on their data.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fixtures_lib import ranks

if TYPE_CHECKING:
    from torch import nn

ranks.prepare()

ENDINGS = (".weight", ".bias", "")
STEPS, MORE_STEPS = 3, 5


def optimizer_of(kind: str, model: nn.Module, lr: float) -> Any:
    """An optimizer with several param groups."""
    import torch

    groups: list[dict[str, Any]] = [{"params": [], "lr": lr * (1 + index)} for index in range(len(ENDINGS))]
    for name, parameter in model.named_parameters():
        groups[next(i for i, ending in enumerate(ENDINGS) if name.endswith(ending))]["params"].append(parameter)
    how = {"SGD": {"momentum": 0.9}, "Adam": {"amsgrad": True}}.get(kind, {})
    return getattr(torch.optim, kind)(groups, **how)


def train(kind: str, stage: int, folder: Path) -> None:
    """DeepSpeed's run, on every rank: train, save, go on, write the losses."""
    import deepspeed
    import torch
    import torch.distributed as dist
    from fixtures_lib import zoo

    deepspeed.init_distributed("gloo")
    torch.manual_seed(1)
    model = zoo.TinyLM()
    zero = {"stage": stage} | ({"stage3_param_persistence_threshold": 0} if stage == 3 else {})
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_clipping": 0.0,  # the loop does none; DeepSpeed's default is 1
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer_of(kind, model, 3e-3), config=config)

    def losses(steps: int, seed: int) -> list[float]:
        torch.manual_seed(seed + dist.get_rank())
        found = []
        for _ in range(steps):
            loss = engine(torch.randint(0, zoo.VOCABULARY, (2, 5)))
            found.append(float(loss.detach()))
            engine.backward(loss)
            engine.step()
        return found

    losses(STEPS, 10)
    engine.save_checkpoint(str(folder / "checkpoint"))
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, losses(MORE_STEPS, 20))
    if dist.get_rank() == 0:
        (folder / "losses.json").write_text(json.dumps(every))
    dist.barrier()


def train_on(kind: str, folder: Path, src: Path, world_size: int, *, is_given: bool) -> list[list[float]]:
    """The plain loop: by rank whose data it is, the losses."""
    import torch
    from fixtures_lib import zoo

    import zeroconsolidate

    torch.manual_seed(2)
    model = zoo.TinyLM()
    tensors = zeroconsolidate.open_checkpoint(folder / "checkpoint")
    model.load_state_dict({name: tensor.load() for name, tensor in tensors.items()}, strict=False)
    optimizer = optimizer_of(kind, model, lr=1.0)
    optimizer.load_state_dict(zeroconsolidate.to_torch_optimizer(model, src, optimizer if is_given else None))
    data = [torch.Generator().manual_seed(20 + rank) for rank in range(world_size)]
    found: list[list[float]] = [[] for _ in data]
    for _ in range(MORE_STEPS):
        optimizer.zero_grad()
        for losses, generator in zip(found, data, strict=True):
            loss = model(torch.randint(0, zoo.VOCABULARY, (2, 5), generator=generator))
            losses.append(float(loss.detach()))
            (loss / world_size).backward()
        optimizer.step()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", type=int, default=[2, 3], help="of DeepSpeed's run")
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2], help="of DeepSpeed's run")
    parser.add_argument("--optimizer", default="AdamW", help="a class of torch.optim")
    args = parser.parse_args()
    ranks.import_deepspeed()
    wrong = 0
    runs = []
    # All of DeepSpeed's runs first: ranks are forked, and must be before torch has computed anything here.
    for stage in args.stages:
        for world_size in args.ranks:
            folder = Path(tempfile.mkdtemp(prefix="train-on-"))
            ranks.run(train, args.optimizer, stage, folder, world_size=world_size, log=folder / "ranks.log")
            runs.append((stage, world_size, folder))
    from zeroconsolidate import consolidate

    for stage, world_size, folder in runs:
        consolidate(folder / "checkpoint", folder / "model", optimizer=True)
        theirs = json.loads((folder / "losses.json").read_text())
        for src in ("checkpoint", "model"):
            for is_given in (True, False):
                ours = train_on(args.optimizer, folder, folder / src, world_size, is_given=is_given)
                pairs = zip(chain(*ours), chain(*theirs), strict=True)
                apart = max(abs(a - b) for a, b in pairs)
                given = "optimizer given" if is_given else "by the checkpoint's groups"
                print(f"stage {stage} x {world_size}  {src:10} {given:26} losses apart by {apart:.1e}", flush=True)
                wrong += apart > (0 if world_size == 1 else 1e-6)
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
