"""Save with DeepSpeed, write a universal checkpoint, resume from it: is everything what it was, bit for bit?

    python tools/resume_universal.py                         two ranks into 1 and 2, stages 1 to 3
    python tools/resume_universal.py --ranks 1 2 3 4         more of them
    python tools/resume_universal.py --only z3_groups --theirs

A row is a saved engine and one that resumed from its universal checkpoint: how many parameters, moments and steps are
those of the engine that saved, and for an engine of the same stage and size, whether its next losses are those of the
run that went on. `--theirs` also resumes from what DeepSpeed's own `ds_to_universal` writes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fixtures_lib import ranks

if TYPE_CHECKING:
    from fixtures_lib.cases import EngineCase

ranks.prepare()


def cases() -> list[EngineCase]:
    """What is saved, at two ranks each."""
    from fixtures_lib.cases import STAGES, EngineCase

    found = []
    for stage in STAGES:
        found += [
            EngineCase(name=f"z{stage}_{dtype}", description="plain", stage=stage, dtype=dtype)
            for dtype in ("bf16", "fp16", "fp32")
        ]
        # Not a third group for `.scale`: DeepSpeed's loader fails where all that a rank holds of a group is padding.
        groups = (".weight", "")
        found.append(EngineCase(name=f"z{stage}_groups", description="param groups", stage=stage, groups=groups))
        frozen = ("layers.0.up", "layers.1.down")
        found.append(EngineCase(name=f"z{stage}_frozen", description="frozen parameters", stage=stage, freeze=frozen))
        if stage < 3:
            zero = {"round_robin_gradients": True}
            found.append(EngineCase(name=f"z{stage}_round_robin", description="shuffled", stage=stage, zero=zero))
    config = {"data_types": {"grad_accum_dtype": "fp32"}}
    found.append(EngineCase(name="z1_bf16_optimizer", description="BF16_Optimizer", stage=1, config=config))
    return found


def target(case: EngineCase, stage: int, world_size: int, *, round_robin: bool = False) -> EngineCase:
    """The engine that resumes."""
    zero = {key: value for key, value in case.zero.items() if key != "round_robin_gradients" or round_robin}
    config = {**case.config, "checkpoint": {"load_universal": True}}
    return dataclasses.replace(case, stage=stage, world_size=world_size, zero=zero, config=config)


def compare(folder: Path, resumed: Path) -> dict[str, Any]:
    """How many values are equal, bit for bit, and the largest difference of losses."""
    import torch

    before, after = (torch.load(path, weights_only=True) for path in (folder / "saved.pt", resumed / "resumed.pt"))
    equal = [
        before[name][key].shape == value.shape and torch.equal(before[name][key], value)
        for name, values in after.items()
        for key, value in values.items()
    ]
    losses = [json.loads(path.read_text()) for path in (folder / "saved.json", resumed / "resumed.json")]
    apart = None
    if len(losses[0]) == len(losses[1]):
        apart = max(abs(a - b) for one, other in zip(*losses, strict=True) for a, b in zip(one, other, strict=True))
    return {"equal": sum(equal), "of": sum(map(len, before.values())), "losses": apart}


def convert(checkpoint: Path, out: Path, *, theirs: bool) -> None:
    """Write the universal checkpoint, with our command or DeepSpeed's."""
    command = ["-m", "zeroconsolidate", "universal", "--quiet", str(checkpoint), str(out)]
    if theirs:
        tag = (checkpoint / "latest").read_text().strip()
        folders = ["--input_folder", str(checkpoint / tag), "--output_folder", str(out / f"{tag}_universal")]
        command = ["-m", "deepspeed.checkpoint.ds_to_universal", *folders, "--inject_missing_state"]
        out.mkdir()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


def saved(case: EngineCase, folder: Path) -> None:
    """Train and save in `folder`."""
    from fixtures_lib import resume

    folder.mkdir(parents=True)
    ranks.run(resume.save, case, folder, world_size=case.world_size, log=folder / "ranks.log")


def resumed(case: EngineCase, universal: Path, folder: Path, *, own_steps: bool) -> None:
    """Resume from `universal`, in `folder`."""
    from fixtures_lib import resume

    folder.mkdir(parents=True)
    log = folder / "ranks.log"
    ranks.run(resume.resume, case, universal, folder, own_steps, world_size=case.world_size, log=log)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="CASE", help="just these")
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2], help="how many ranks resume")
    parser.add_argument("--stages", nargs="+", type=int, default=[1, 2, 3], help="at which stages")
    parser.add_argument("--theirs", action="store_true", help="also from what ds_to_universal writes")
    parser.add_argument("--round-robin", action="store_true", help="resume with round_robin_gradients as well")
    parser.add_argument("--shared-steps", action="store_true", help="leave steps as DeepSpeed's loader shares them")
    parser.add_argument("--out", type=Path, help="keep all files there")
    args = parser.parse_args()
    root = args.out or Path(tempfile.mkdtemp(prefix="resume-universal-"))
    ranks.import_deepspeed()
    wrong = 0
    for case in cases():
        if args.only and case.name not in args.only:
            continue
        folder = root / case.name
        saved(case, folder)
        for who in ("ours", "theirs")[: 1 + args.theirs]:
            convert(folder / "checkpoint", folder / who, theirs=who == "theirs")
            for stage in args.stages:
                for world_size in args.ranks:
                    row = f"{case.name:16} {who:6} stage {stage} x {world_size}"
                    place = folder / f"{who}_z{stage}_w{world_size}"
                    engine = target(case, stage, world_size, round_robin=args.round_robin)
                    try:
                        resumed(engine, folder / who, place, own_steps=not args.shared_steps)
                    except RuntimeError as error:
                        last = str(error).strip().splitlines()
                        print(
                            f"{row}  {next((line for line in reversed(last) if 'Error' in line), last[-1])}", flush=True
                        )
                        wrong += who == "ours"
                        continue
                    found = compare(folder, place)
                    is_same = (stage, world_size) == (case.stage, case.world_size)
                    good = found["equal"] == found["of"] and not (is_same and found["losses"])
                    wrong += not good and who == "ours"
                    losses = "" if found["losses"] is None else f"losses apart by {found['losses']:.1e}"
                    mark = "" if good else "  WRONG"
                    print(f"{row}  {found['equal']} of {found['of']} equal  {losses}{mark}", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
