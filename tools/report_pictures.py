"""Makes the pictures of HTML reports in docs/pictures/, with Chromium.

python tools/report_pictures.py
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from zeroconsolidate import compare, consolidate, html_report, inspect

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
LAYERS = 32
HEIGHTS = {"comparison": 760, "incomplete": 760, "rescue": 700}
"""Of the part of each page that is pictured."""


def models(folder: Path) -> tuple[Path, Path]:
    """A model and what a fine-tune could make of it: later layers move more, and one was left behind."""
    torch.manual_seed(0)
    base = {"model.embed_tokens.weight": torch.randn(400, 16), "lm_head.weight": torch.randn(400, 16)}
    base["model.norm.weight"] = torch.ones(16)
    for n in range(LAYERS):
        for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
                     "mlp.up_proj", "mlp.down_proj"):  # fmt: skip
            base[f"model.layers.{n}.{part}.weight"] = torch.randn(16, 16)
        base[f"model.layers.{n}.input_layernorm.weight"] = torch.ones(16)
    trained = {}
    for name, tensor in base.items():
        layer = int(name.split(".")[2]) if ".layers." in name else 8
        scale = 10 ** (-4.5 + 4 * layer / LAYERS) * (0.05 if "self_attn" in name else 1)
        trained[name] = tensor + scale * torch.randn_like(tensor)
    trained["lm_head.weight"] = base["lm_head.weight"].clone()
    behind = "model.layers.20.mlp.up_proj.weight"
    trained[behind] = base[behind].clone()
    for name, tensors in (("base", base), ("trained", trained)):
        (folder / name).mkdir()
        save_file(tensors, folder / name / "model.safetensors")
    return folder / "trained", folder / "base"


def pages(folder: Path) -> dict[str, str]:
    """The pages that are pictured."""
    incomplete = shutil.copytree(ROOT / "tests/fixtures/z2_w12/checkpoint", folder / "checkpoint-500")
    next(incomplete.glob("*/*pp_rank_5_*")).unlink()
    rescued = consolidate(incomplete, folder / "my-rescue", rescue=True)
    made = {
        "comparison": html_report(compare(*models(folder))),
        "incomplete": html_report(inspect(incomplete)),
        "rescue": html_report(rescued),
    }
    return {name: text.replace(f"{folder}/", "") for name, text in made.items()}


def main() -> None:
    """Write the pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        for kind, text in pages(Path(name)).items():
            page = Path(name) / f"{kind}.html"
            page.write_text(text)
            picture = PICTURES / f"report-{kind}.png"
            subprocess.run(
                ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                 f"--window-size=1100,{HEIGHTS[kind]}", f"--screenshot={picture}", page.as_uri()],
                check=True, capture_output=True, timeout=60,
            )  # fmt: skip
            print(f"{picture.relative_to(ROOT)}: {picture.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
