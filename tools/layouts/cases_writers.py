"""Cases that differ in who writes the files, and in which container."""

from __future__ import annotations

from typing import Any

from .case import Case
from .cases_more import FROZEN


def writer(**settings: Any) -> dict[str, Any]:
    """A checkpoint section that names a writer; 0.19 needs `data_parallel` beside the type."""
    return {"checkpoint": {"writer": {"data_parallel": "replica", **settings}}}


WRITERS = [
    Case(name="writer_python", stage=2, config=writer(type="python"), about="Entry folder archive/ in every file."),
    Case(name="writer_python_z3", stage=3, config=writer(type="python"), about="The python writer at stage 3."),
    Case(
        name="legacy_z2",
        stage=2,
        config={"checkpoint": {"checkpoint_serialization": False}},
        about="torch's container from before 1.6 (no zip), by checkpoint_serialization: false.",
    ),
    Case(
        name="legacy_z3",
        stage=3,
        config={"checkpoint": {"checkpoint_serialization": False}},
        frozen=FROZEN,
        about="The legacy container at stage 3, frozen parameters.",
    ),
    Case(
        name="legacy_z0",
        stage=0,
        config={"checkpoint": {"checkpoint_serialization": False}},
        about="The legacy container at stage 0.",
    ),
    *(
        Case(
            name=f"writer_fast_z{stage}",
            stage=stage,
            config={**writer(type="fast", io_buffer_size=8192), "aio": {"intra_op_parallelism": 1}},
            patches=("python_operators", "unpinned_buffers"),
            about=f"The fast writer at stage {stage}: {what}.",
        )
        for stage, what in (
            (0, "one whole copy of a file a data-parallel rank, named .pt-RANK.RANKS"),
            (2, "every file under a name of its own, .pt-RANK.RANKS"),
            (3, "ordinary names"),
        )
    ),
    Case(
        name="writer_decoupled_z2",
        stage=2,
        # Of several ranks each would write the model file, under one name at one time, and may damage it.
        world=1,
        config=writer(type="python", decoupled=True),
        patches=("leaf_masters",),
        about="The decoupled writer: the python writer in a process of its own.",
    ),
    Case(
        name="writer_decoupled_z3",
        stage=3,
        config=writer(type="python", decoupled=True),
        about="The decoupled writer at stage 3.",
    ),
    Case(name="writer_mock", stage=2, config=writer(type="mock"), about="Files of zero bytes: nothing was saved."),
]
