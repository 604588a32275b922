"""A word such as `last-complete`, or a step -> the save that is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..archive.phrases import counted, listed
from ..errors import BadOption, NotACheckpoint
from ..opening.resume import LAST_COMPLETE
from .judge import number_of

if TYPE_CHECKING:
    from .facts import RunInfo, SaveInfo

LAST = "last"
BEST = "best"


def choose(run: RunInfo, wanted: str | int) -> SaveInfo:
    """The save of `run` that is called `wanted`: one of the words above, a step, or a name.

    Raises NotACheckpoint if there is none, BadOption if `wanted` is something else.
    """
    wanted = str(wanted)
    if wanted == LAST:
        return run.newest
    if wanted == LAST_COMPLETE:
        if run.last_complete is None:
            names = listed([save.name for save in reversed(run.saves)], 8)
            raise NotACheckpoint("no save is complete", consequence=f"tried {names}", address=(run.root,))
        return run.last_complete
    if wanted == BEST:
        found = next((save for save in run.saves if save.name == run.best), None)
        if found is None:
            raise NotACheckpoint(
                "no save is known to be the best",
                expected="`best_model_checkpoint` in trainer_state.json, or the state of Lightning's ModelCheckpoint",
                address=(run.root,),
            )
        return found
    named = [save for save in run.saves if wanted == save.name]
    numbered = [save for save in run.saves if wanted.isdecimal() and number_of(save.name) == int(wanted)]
    stepped = [save for save in run.saves if wanted.isdecimal() and save.step == int(wanted)]
    chosen = named or numbered or stepped
    if chosen:
        return chosen[-1]
    there = f"{counted(len(run.saves), 'save')}: {listed([save.name for save in run.saves], 12)}"
    if wanted.isdecimal():
        raise NotACheckpoint(f"there is no save of step {wanted}", found=there, address=(run.root,))
    raise BadOption(
        f"there is no save called {wanted[:80]!r}",
        expected=f"{LAST_COMPLETE}, {LAST}, {BEST} or a step",
        found=there,
        address=(run.root,),
    )
