"""Makes tests/fixtures/reported of the cases that came with reports of wrong outputs: real two-rank trainings.

    python tools/keep_reported.py DIRECTORY       (of NAME.tar.xz; each holds NAME/ckpt and what else belongs to it)

A case folder has

    ckpt/                what the training saved, without DeepSpeed's copied scripts
    base/                the original model, where adapters were trained
    ref/                 the model that a right conversion makes, where the report has one
    truth.safetensors    the live engine's values by parameter name: float32 masters, frozen ones in their own dtype
    provenance.json      the digest of the archive, and of every file

A report without the engine's values gets those of its optimizer files, read with torch.load and confirmed by the
16-bit copies in the model file.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from shared.folders import COPIED_SCRIPTS, RECORD, digest, digests, size_bytes

ROOT = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "reported"

CASES = {
    "ckpt_wrapper_full_z2": "torch's checkpoint_wrapper: the module has plain names, param_shapes has wrapped ones",
    "compile_lora_z2": "LoRA with layers that torch.compile wrapped",
    "llava_head_z3": "LoRA in the vision tower of a LLaVA, the head among modules_to_save",
    "llava_lora_z3": "LoRA on the language model of a LLaVA, the projector trained beside it",
    "not_in_optimizer_z3": "parameters that require gradients, but that the optimizer was not given",
    "qlora_all_z2": "QLoRA, the quantized base in the save",
    "resize_mts_z3": "LoRA after resize_token_embeddings, embeddings and head among modules_to_save",
    "seqcls_lora_z3": "LoRA for sequence classification on a causal base",
    "st_dense_z3": "a SentenceTransformer with a dense module behind the pooling",
    "tevatron_z3": "a bi-encoder: one encoder under two names",
}


def masters(tag: Path) -> dict[str, torch.Tensor]:
    """The masters of a stage 2 checkpoint of two ranks, by name: partitions end to end, cut in the order of names."""
    model = torch.load(tag / "mp_rank_00_model_states.pt", weights_only=False)
    ranks = [torch.load(path, weights_only=False) for path in sorted(tag.glob("*zero_pp_rank_*_optim_states.pt"))]
    found = {}
    for group, shapes in enumerate(model["param_shapes"]):
        parts = [rank["optimizer_state_dict"]["single_partition_of_fp32_groups"][group] for rank in ranks]
        flat, start = torch.cat(parts), 0
        for name, shape in shapes.items():
            found[name] = flat[start : start + math.prod(shape)].reshape(shape).clone()
            start += math.prod(shape)
            if not torch.equal(found[name].to(model["module"][name].dtype), model["module"][name]):
                raise ValueError(f"{name}: the master is not its 16-bit copy's")
    return found


def keep(archive: Path, folder: Path) -> None:
    name = folder.name
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(archive) as packed:
            packed.extractall(scratch, filter="data")
        shutil.copytree(Path(scratch) / name, folder, ignore=shutil.ignore_patterns(*COPIED_SCRIPTS))
    facts: dict[str, Any] = {"case": name, "description": CASES[name], "archive_sha256": digest(archive)}
    if not (folder / "truth.safetensors").exists():
        (tag,) = (path for path in (folder / "ckpt").iterdir() if path.is_dir())
        save_file(masters(tag), folder / "truth.safetensors", metadata={"format": "pt"})
        facts["truth"] = "masters of the optimizer files, equal to the 16-bit copies where rounded"
    else:
        facts["truth"] = "the live engine's values, as reported"
    facts["sha256"] = digests(folder)
    (folder / RECORD).write_text(json.dumps(facts, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep reported cases as fixtures.")
    parser.add_argument("archives", type=Path, help="the directory of NAME.tar.xz")
    where = parser.parse_args().archives
    for name in CASES:
        keep(where / f"{name}.tar.xz", ROOT / name)
        print(f"{name}: {size_bytes(ROOT / name) / 1000:.0f} KB")


if __name__ == "__main__":
    main()
