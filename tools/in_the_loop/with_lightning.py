"""A training with Lightning's Trainer and its DeepSpeed strategy."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from .common import Times, die_in_the_middle_of, note_truth

if TYPE_CHECKING:
    from .common import Plan


def train(plan: Plan) -> None:
    """Runs on every rank."""
    import lightning.pytorch as pl
    from lightning.pytorch.accelerators import CPUAccelerator
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint
    from lightning.pytorch.strategies import DeepSpeedStrategy
    from lightning.pytorch.strategies import deepspeed as strategy

    from zeroconsolidate.training.lightning import ConsolidateCallback

    # Lightning's strategy insists on CUDA; DeepSpeed itself does not.
    strategy.CUDAAccelerator = CPUAccelerator
    strategy._validate_device_index_selection = lambda _: None
    strategy.argparse = SimpleNamespace(Namespace=lambda **_: SimpleNamespace())  # a CPU has no `device_rank`
    os.chdir(plan.out)
    torch.manual_seed(7)
    times = Times()

    class Model(pl.LightningModule):
        """Two layers that learn to give back what they get."""

        def __init__(self) -> None:
            super().__init__()
            self.up = torch.nn.Linear(plan.width, 2 * plan.width)
            self.down = torch.nn.Linear(2 * plan.width, plan.width)

        def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
            batch = batch.to(self.up.weight.dtype)
            return torch.nn.functional.mse_loss(self.down(torch.relu(self.up(batch))), batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    class Saving(ModelCheckpoint):
        """Notes the truth at each save."""

        def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
            super()._save_checkpoint(trainer, filepath)
            note_truth(trainer.lightning_module, plan.out, trainer.global_step)

    class Watching(Callback):
        """Notes step times."""

        def on_train_batch_start(self, *_: Any) -> None:
            times.begin()

        def on_train_batch_end(self, *_: Any) -> None:
            times.end()

    saving = Saving(dirpath=plan.out / "run", every_n_train_steps=plan.save_every, save_top_k=plan.limit or -1,
                    monitor="step", mode="max", filename="{step}")  # fmt: skip
    ours = [] if plan.options is None else [ConsolidateCallback(**plan.options)]
    if plan.die_at is not None and int(os.environ["RANK"]) == 1:
        die_in_the_middle_of(plan.die_at)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=int(os.environ["WORLD_SIZE"]),
        strategy=DeepSpeedStrategy(stage=plan.stage, process_group_backend="gloo"),
        precision="bf16-true",
        max_steps=plan.steps,
        callbacks=[*ours, saving, Watching()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    examples = torch.randn(64, plan.width)
    loader = torch.utils.data.DataLoader(examples, batch_size=4)
    trainer.fit(Model(), loader, ckpt_path=plan.resume)
    times.write(plan.out)
    dist.barrier()
