"""`completion`: what it takes, and what its help says."""

from __future__ import annotations

from dataclasses import dataclass

from . import SHELLS
from .flags import NoOptions, debug
from .verb import Paths, Verb


@dataclass(frozen=True, kw_only=True)
class CompletionFlags:
    """Flags of `completion`."""

    debug: bool = debug()


VERB = Verb(
    description=(
        "Print the script that completes commands, options and their values in a shell. "
        "Write it to where the shell\n"
        "reads such files, once; after an update, again."
    ),
    forms=("|".join(SHELLS),),
    paths=Paths(help=f"the shell: {', '.join(SHELLS)}", metavar="SHELL"),
    kinds=(NoOptions, CompletionFlags),
    examples=(
        "zeroconsolidate completion bash > ~/.local/share/bash-completion/completions/zeroconsolidate",
        'zeroconsolidate completion zsh > "${fpath[1]}/_zeroconsolidate"',
        "zeroconsolidate completion fish > ~/.config/fish/completions/zeroconsolidate.fish",
    ),
)
