"""What is saved, at two ranks each. The head of the model is its embedding: in every case weights are tied."""

from __future__ import annotations

from fixtures_lib.cases import STAGES, EngineCase

FROZEN = ("layers.0.up", "layers.1.down")
# Not a third group for `.scale`: DeepSpeed's loader fails where all that a rank holds of a group is padding.
GROUPS = (".weight", "")
WIDE = 129
"""Tensors of such a model have whole blocks of a disk, which a universal checkpoint can share."""


def cases() -> list[EngineCase]:
    """By name: `z2_groups` is stage 2 with several param groups."""
    return [
        *(case for stage in (0, *STAGES) for case in at_stage(stage)),
        EngineCase(
            name="z1_bf16_optimizer",
            description="bf16, BF16_Optimizer",
            stage=1,
            config={"data_types": {"grad_accum_dtype": "fp32"}},
        ),
    ]


def at_stage(stage: int) -> list[EngineCase]:
    """All cases at one stage."""
    found = [
        EngineCase(
            name=f"z{stage}_{dtype}",
            description=dtype if (stage, dtype) != (0, "fp32") else "fp32, `AdamW(model.named_parameters())`",
            stage=stage,
            dtype=dtype,
        )
        for dtype in ("bf16", "fp16", "fp32")
    ]
    found.append(
        EngineCase(name=f"z{stage}_groups", description="bf16, param groups", stage=stage, groups=GROUPS),
    )
    found.append(
        EngineCase(name=f"z{stage}_frozen", description="bf16, frozen parameters", stage=stage, freeze=FROZEN),
    )
    if stage in (1, 2):  # the others do not read the setting
        found.append(
            EngineCase(
                name=f"z{stage}_round_robin",
                description="bf16, `round_robin_gradients`",
                stage=stage,
                zero={"round_robin_gradients": True},
            )
        )
    return found


def apart() -> list[EngineCase]:
    """Cases that are not in the table."""
    return [
        EngineCase(name=f"z{stage}_wide", description="bf16, wider", stage=stage, model={"width": WIDE})
        for stage in (2, 3)
    ]
