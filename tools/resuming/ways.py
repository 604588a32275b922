"""Ways back into training: what each makes of a checkpoint, and how an engine takes it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path


Refusals = dict[tuple[str, str], str]
"""Names of a case and a way -> why there is nothing to resume from."""


class Refused(Exception):
    """The layout is refused, in one line."""


class WayBack(Protocol):
    """One way."""

    @property
    def name(self) -> str:
        """What it is called."""

    def takes(self, saved: int, stage: int) -> bool:
        """Whether what was saved at one stage is tried at another."""

    @property
    def takes_round_robin(self) -> bool:
        """Whether an engine may have `round_robin_gradients`."""

    @property
    def loads_whole_module(self) -> bool:
        """Whether frozen parameters and buffers come from the checkpoint as well."""

    @property
    def config(self) -> dict[str, Any]:
        """What the engine's config must have."""

    def prepare(self, folder: Path) -> None:
        """Make what is needed of `folder/checkpoint`, in `folder`, before any engine starts. Raises Refused."""

    def load(self, engine: Any, folder: Path) -> None:
        """Load it into an engine, on every rank. Raises Refused on all of them."""

    def keeps_settings(self, stage: int) -> bool:
        """Whether what differs between param groups comes from the checkpoint, into an engine of this stage."""


@dataclass(frozen=True)
class Universal:
    """A universal checkpoint, into DeepSpeed's own loader."""

    name: str = "universal"
    own_steps: bool = True
    """Give every flat group a step of its own, which DeepSpeed's loader at stage 3 forgets."""
    reflink: str = "auto"
    """How it is written, which changes no value: the option of this name."""
    takes_round_robin: bool = False
    loads_whole_module: bool = False

    def takes(self, saved: int, stage: int) -> bool:
        if not self.own_steps:
            return stage == 3
        return stage > 0

    @property
    def config(self) -> dict[str, Any]:
        return {"checkpoint": {"load_universal": True}}

    def prepare(self, folder: Path) -> None:
        command = ["zeroconsolidate", "universal", "--quiet", "--reflink", self.reflink]
        _run(["-m", *command, str(folder / "checkpoint"), str(folder / self.name)])

    def load(self, engine: Any, folder: Path) -> None:
        _, client_state = engine.load_checkpoint(str(folder / self.name))
        if client_state["epoch"] != 7:
            msg = f"the client state is lost: {client_state}"
            raise RuntimeError(msg)
        if self.own_steps:
            for state in engine.optimizer.optimizer.state.values():
                state["step"] = state["step"].clone()

    def keeps_settings(self, stage: int) -> bool:
        return stage < 3  # DeepSpeed's loader has no place for them at stage 3


@dataclass(frozen=True)
class Theirs(Universal):
    """The same, written by DeepSpeed's own converter."""

    name: str = "ds_to_universal"

    def takes(self, saved: int, stage: int) -> bool:
        return saved == stage > 0  # the model file is there only under the name that this stage asks for

    def prepare(self, folder: Path) -> None:
        checkpoint = folder / "checkpoint"
        tag = (checkpoint / "latest").read_text().strip()
        out = folder / self.name
        out.mkdir()
        folders = ["--input_folder", str(checkpoint / tag), "--output_folder", str(out / f"{tag}_universal")]
        _run(["-m", "deepspeed.checkpoint.ds_to_universal", *folders, "--inject_missing_state"])


@dataclass(frozen=True)
class IntoEngine:
    """Into the live engine, without another checkpoint."""

    name: str = "load_into_engine"
    takes_round_robin: bool = True
    loads_whole_module: bool = True

    def takes(self, saved: int, stage: int) -> bool:
        return True

    @property
    def config(self) -> dict[str, Any]:
        return {}

    def prepare(self, folder: Path) -> None:
        pass

    def load(self, engine: Any, folder: Path) -> None:
        from zeroconsolidate import load_into_engine
        from zeroconsolidate.errors import UnsupportedLayout

        try:
            load_into_engine(engine, folder / "checkpoint")
        except UnsupportedLayout as error:  # on every rank, which all read the same files
            raise Refused(str(error)) from None

    def keeps_settings(self, stage: int) -> bool:
        return True


def _run(command: list[str]) -> None:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise Refused(next((line for line in lines if line.startswith("zeroconsolidate: ")), lines[-1]))


OURS = ("universal", "load_into_engine")
WAYS: dict[str, WayBack] = {
    way.name: way
    for way in (
        Universal(),
        Universal(name="shared_steps", own_steps=False),
        Universal(name="cloned", reflink="always"),
        Theirs(),
        IntoEngine(),
    )
}
