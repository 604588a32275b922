"""Trains for a few seconds with DeepSpeed on two CPU ranks, with our callback: for tests/live/test_in_the_loop.py.

python tools/in_the_loop/run.py --trainer transformers --out D --steps 4 --save-every 2 --options '{"dtype": "bf16"}'
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fixtures_lib import ranks

from in_the_loop.common import Plan

TRAINERS = ("transformers", "lightning")


def main() -> None:
    """Train once. Exit code 1 if a rank died."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--trainer", choices=TRAINERS, default="transformers")
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--stage", type=int, default=3)
    arguments.add_argument("--steps", type=int, default=4)
    arguments.add_argument("--save-every", type=int, default=2)
    arguments.add_argument(
        "--options", type=json.loads, default=None, help="of the callback, as JSON; without: no callback"
    )
    arguments.add_argument("--limit", type=int)
    arguments.add_argument("--die-at", type=int)
    arguments.add_argument("--resume")
    arguments.add_argument("--width", type=int, default=16)
    given = vars(arguments.parse_args())
    trainer = given.pop("trainer")
    plan = Plan(**given | {"out": given["out"].resolve()})
    plan.out.mkdir(parents=True, exist_ok=True)
    train(trainer, plan)


def train(trainer: str, plan: Plan) -> None:
    """Start the ranks, and wait for them."""
    ranks.prepare()
    ranks.import_deepspeed()
    if trainer == "transformers":
        import transformers  # noqa: F401  (before the ranks are forked)

        from in_the_loop.with_transformers import train as work
    else:
        import lightning.pytorch  # noqa: F401

        from in_the_loop.with_lightning import train as work
    ranks.run(work, plan, world_size=2, log=plan.out / "log.txt", timeout_seconds=300)


if __name__ == "__main__":
    main()
