"""What is tried with what: a row for each release of another program."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from . import arm

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"


@dataclass(frozen=True)
class Row:
    """A release."""

    program: str
    version: str
    needs: tuple[str, ...] = ()
    """Installed with what they need."""
    alone: tuple[str, ...] = ()
    """Installed without: they would bring a build of torch for CUDA."""
    with_torch: bool = False
    """Whether the torch of the environment that runs this is there, too."""
    on_arm: bool = False
    """Whether it is tried with a Python for 64-bit Arm, emulated."""

    @property
    def name(self) -> str:
        """Program and version."""
        return f"{self.program} {self.version}"


PADDED, PADDED_OF = "padded", "llm_untied_z2"
"""A converted model whose headers are padded, and the same without."""

PLAIN = ("tqdm", "shtab")
WITH_TORCH = ("filelock", "fsspec", "jinja2", "networkx", "sympy", "typing-extensions")
"""What torch imports. It is installed alone, lest pip take the requirements of another machine for those of Arm."""

PROGRAMS = (
    "DeepSpeed",
    "safetensors",
    "numpy",
    "torch",
    "transformers",
    "PEFT",
    "sentence-transformers",
    "FlagEmbedding",
    "Python for Arm",
)


_BESIDE_4 = ("peft==0.13.2", "accelerate==1.1.1", "sentence-transformers==3.0.1")
_BESIDE_5 = ("peft==0.21.2", "accelerate==1.15.0", "sentence-transformers==6.2.0")
"""What FlagEmbedding imports, of the time of the releases of transformers that it is tried with."""
_WITHOUT_VALUES = {"writer_mock"}
"""Saves of a writer that leaves files empty, for benchmarks."""


def deepspeeds() -> dict[str, list[Path]]:
    """Release of DeepSpeed -> the saves in this repository that it made."""
    found: dict[str, list[Path]] = {}
    for provenance in sorted(FIXTURES.rglob("provenance.json")):
        versions = json.loads(provenance.read_text()).get("versions", {})
        has_values = (provenance.parent / "expected.safetensors").exists()
        if "deepspeed" in versions and has_values and provenance.parent.name not in _WITHOUT_VALUES:
            found.setdefault(versions["deepspeed"], []).append(provenance.parent)
    return found


def rows() -> list[Row]:
    """All rows, by program, the oldest release first."""
    return [
        *(Row("DeepSpeed", version) for version in _ordered(deepspeeds())),  # its saves are read without it
        *(
            Row("safetensors", version, needs=(*PLAIN, "numpy", f"safetensors=={version}"))
            for version in ("0.4.3", "0.4.5", "0.5.3", "0.6.2", "0.7.0", "0.8.0")
        ),
        *(
            Row("numpy", version, needs=(*PLAIN, f"numpy=={version}", "safetensors"))
            for version in ("1.24.4", "1.26.4", "2.0.2", "2.2.6", "2.4.6")
        ),
        *(
            Row("torch", version, needs=(*PLAIN, *WITH_TORCH, "safetensors", numpy), alone=(f"torch=={version}",),
                on_arm=True)
            for version, numpy in (
                ("2.1.2", "numpy<2"), ("2.2.2", "numpy<2"), ("2.3.1", "numpy<2"), ("2.4.1", "numpy"),
                ("2.5.1", "numpy"), ("2.6.0", "numpy"), ("2.7.1", "numpy"), ("2.8.0", "numpy"), ("2.9.1", "numpy"),
                ("2.10.0", "numpy"),
            )
        ),
        Row("torch", "2.13.0", needs=(*PLAIN, "safetensors", "torch==2.13.0", "numpy")),
        *(
            Row("transformers", version, needs=(*PLAIN, f"transformers=={version}", numpy), with_torch=True)
            for version, numpy in (
                ("4.40.2", "numpy<2"), ("4.46.3", "numpy"), ("4.51.3", "numpy"), ("4.57.1", "numpy"),
                ("5.0.0", "numpy"), ("5.24.0", "numpy"),
            )
        ),
        *(
            Row("PEFT", version, needs=(*PLAIN, transformers, "psutil", "pyyaml"),
                alone=(f"peft=={version}", accelerate), with_torch=True)
            for version, transformers, accelerate in (
                ("0.10.0", "transformers==4.40.2", "accelerate==0.30.1"),
                ("0.13.2", "transformers==4.46.3", "accelerate==1.1.1"),
                ("0.17.1", "transformers==4.57.1", "accelerate==1.10.1"),
                ("0.21.2", "transformers==5.24.0", "accelerate==1.15.0"),
            )
        ),
        *(
            Row("sentence-transformers", version, with_torch=True,
                needs=(*PLAIN, transformers, "scikit-learn", "scipy", "pillow", "psutil", "sentencepiece", "protobuf"),
                alone=(f"sentence-transformers=={version}", accelerate))
            for version, transformers, accelerate in (
                ("3.0.1", "transformers==4.46.3", "accelerate==1.1.1"),
                ("4.1.0", "transformers==4.46.3", "accelerate==1.1.1"),
                ("5.1.0", "transformers==4.57.1", "accelerate==1.10.1"),
                ("6.0.1", "transformers==5.23.0", "accelerate==1.15.0"),
                ("6.2.0", "transformers==5.24.0", "accelerate==1.15.0"),
            )
        ),
        *(
            Row("FlagEmbedding", version, with_torch=True,
                needs=(*PLAIN, "datasets", "sentencepiece", "protobuf", "psutil", "pyyaml", "ir-datasets", "pillow",
                       "scikit-learn", "scipy", transformers),
                alone=(f"FlagEmbedding=={version}", *others))
            for version, transformers, others in (
                ("1.2.11", "transformers==4.46.3", _BESIDE_4), ("1.3.5", "transformers==4.46.3", _BESIDE_4),
                ("1.4.2", "transformers==5.23.0", _BESIDE_5),
            )
        ),
        Row("Python for Arm", arm.PYTHON, needs=(*PLAIN, "numpy", "safetensors"), on_arm=True),
    ]  # fmt: skip


def _ordered(versions: dict[str, list[Path]]) -> list[str]:
    return sorted(versions, key=lambda version: [int(part) for part in version.split(".")])
