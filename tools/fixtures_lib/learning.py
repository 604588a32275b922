"""A model that learns something, so that its losses say whether a training goes on as it should. Runs on every rank."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from pathlib import Path

VOCABULARY, WIDTH, TOKENS = 32, 48, 24
BATCH = 12
"""Sequences of a step, on all ranks together: 3 and 4 ranks divide it."""


class NextToken(nn.Module):
    """Predicts each token of a sequence from the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.body = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: int64 [batch, tokens]. Returns the mean cross entropy, fp32 and 0-d."""
        x = self.embed(ids[:, :-1])
        logits = self.head(self.norm(x + self.body(x))).float()
        return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def batch(step: int) -> Tensor:
    """The sequences of a step, the same for any number of ranks: walks through one random chain."""
    chain = torch.softmax(3 * torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(1)), dim=1)
    dice = torch.Generator().manual_seed(1000 + step)
    ids = [torch.randint(VOCABULARY, (BATCH,), generator=dice)]
    for _ in range(TOKENS):
        ids.append(torch.multinomial(chain[ids[-1]], 1, generator=dice)[:, 0])
    return torch.stack(ids, dim=1)


def train(stage: int, folder: Path, saves: tuple[int, ...], last: int) -> None:
    """Train from the beginning to step `last`, save on the way, write the losses."""
    engine = _engine(stage)
    losses = []
    for step in range(last):
        losses.append(_step(engine, step))
        if step + 1 in saves:
            engine.save_checkpoint(str(folder / "run"))
    _write(losses, folder / "undisturbed.json")


def resume(stage: int, universal: Path, first: int, last: int, losses: Path) -> None:
    """Train on from a universal checkpoint, in an engine that was started with other weights."""
    engine = _engine(stage, seed=99, config={"checkpoint": {"load_universal": True}})
    engine.load_checkpoint(str(universal))
    if engine.global_steps != first:
        msg = f"resumed at step {engine.global_steps}, not {first}"
        raise RuntimeError(msg)
    _write([_step(engine, step) for step in range(first, last)], losses)


def _engine(stage: int, *, seed: int = 7, config: dict[str, Any] | None = None) -> Any:
    import deepspeed

    deepspeed.init_distributed("gloo")
    torch.manual_seed(seed)
    model = NextToken()
    settings = {
        "train_micro_batch_size_per_gpu": BATCH // dist.get_world_size(),
        "gradient_clipping": 1.0,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": stage, **({"stage3_param_persistence_threshold": 0} if stage == 3 else {})},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        **(config or {}),
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    return engine


def _step(engine: Any, step: int) -> float:
    """One step on this rank's part of the batch; the loss of all of it."""
    own = batch(step).chunk(dist.get_world_size())[dist.get_rank()]
    loss = engine(own)
    mean = loss.detach().clone()
    engine.backward(loss)
    engine.step()
    dist.all_reduce(mean)
    return float(mean) / dist.get_world_size()


def _write(losses: list[float], path: Path) -> None:
    if dist.get_rank() == 0:
        path.write_text(json.dumps(losses))
    dist.barrier()
