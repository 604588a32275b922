"""Saves a checkpoint of each architecture with DeepSpeed: one process, one engine after the other.

    python -m architectures.make FOLDER [CLASS…]      (in `tools/`, or with it on PYTHONPATH)

As for `generate_cases`, nothing is computed: every parameter is given a float32 master through DeepSpeed's own
accessors, and what training would leave is saved. FOLDER/CLASS then has

    checkpoint/          what save_checkpoint wrote, and config.json as the model saves it
    truth.safetensors    the engine's values: name in the engine -> float32 master, or buffer
    facts.json           which names there are one parameter
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fixtures_lib import ranks

from architectures.cases import ARCHITECTURES

if TYPE_CHECKING:
    from architectures.cases import Architecture

BUFFER = "buffer:"
"""Before the name of a buffer in `truth.safetensors`."""


def work(folder: Path, names: list[str]) -> None:
    """Save the architectures called `names`; runs on the only rank."""
    import deepspeed
    from deepspeed.runtime.engine import DeepSpeedEngine

    deepspeed.init_distributed("gloo")
    DeepSpeedEngine._copy_recovery_script = lambda *_: None
    # There is no other rank to send the model to, and DeepSpeed 0.19 fails to send scalars, such as CLIP's temperature.
    DeepSpeedEngine._broadcast_model = lambda *_: None
    for number, name in enumerate(names):
        _save(ARCHITECTURES[name], folder / name, seed=number)
        gc.collect()


def built(architecture: Architecture) -> Any:
    """The model, with random weights."""
    import transformers

    config = transformers.AutoConfig.for_model(**architecture.config)
    return getattr(transformers, architecture.name)(config)


def _save(architecture: Architecture, folder: Path, seed: int) -> None:
    import deepspeed
    import torch
    from generate_cases.build import Built
    from generate_cases.case import Case
    from generate_cases.make import TAG, engine_config, set_masters
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    model = built(architecture)
    made = Built(
        module=model,
        model=model,
        trained_class=type(model),
        names=dict(model.named_parameters(remove_duplicate=False)),
        optimized=[parameter for parameter in model.parameters() if parameter.requires_grad],
    )
    case = Case(seed=seed, stage=architecture.stage, world_size=1, dtype="bf16")
    optimizer = torch.optim.AdamW(made.optimized, lr=1e-3)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=engine_config(case))
    try:
        truth, facts = set_masters(case, made, engine)
        engine.global_steps = 1
        engine.save_checkpoint(str(folder / "checkpoint"), tag=TAG)
    finally:
        engine.destroy()
    model.config.architectures = [architecture.name]
    model.config.save_pretrained(folder / "checkpoint")
    save_file(truth, folder / "truth.safetensors")
    (folder / "facts.json").write_text(json.dumps(facts["names"]))


def main(folder: Path, names: list[str]) -> None:
    """Make them in a process that `fixtures_lib.ranks` starts."""
    ranks.prepare()
    ranks.import_deepspeed()
    import transformers

    transformers.logging.set_verbosity_error()
    ranks.run(work, folder, names or list(ARCHITECTURES), world_size=1, log=folder / "log.txt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
