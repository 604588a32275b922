"""`compare --answers`: flags -> the call, and the text that the command prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..archive.phrases import counted
from ..errors import BadOption
from .rows import rows_text, time_text

if TYPE_CHECKING:
    from ..answers.agreement import AnswersComparison, TextAgreement
    from .verbs.compare import CompareFlags

LEAST = 5
"""So many texts are listed: those on which the models agree least."""
_WHAT = {
    "embeddings": "cosine",
    "scores": "agreement of scores",
    "classes": "same class",
    "continuations": "same next token",
}


def answers_options(flags: CompareFlags, given: dict[str, Any]) -> dict[str, Any]:
    """The keywords of `compare_answers`. Raises BadOption for options that say nothing about answers."""
    for name in ("base", "tolerance"):
        if name in given:
            raise BadOption(f"--{name} cannot be used with --answers, which compares no weights")
    for name, value in (("tensors", flags.tensors or None), ("html", flags.html)):
        if value is not None:
            raise BadOption(f"--{name} cannot be used with --answers, which compares no weights")
    return {"texts": flags.answers, "record": flags.record, "pooling": flags.pooling}


def least_agreement(flags: CompareFlags) -> float | None:
    """`--agreement` as a number. Raises BadOption."""
    if flags.agreement is None:
        return None
    try:
        share = float(flags.agreement)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise BadOption("--agreement is a number from 0 to 1", found=repr(flags.agreement)[:60])
    return share


def refuse_without_answers(flags: CompareFlags) -> None:
    """Raises BadOption for flags that are about answers only."""
    for name in ("record", "pooling", "agreement"):
        if getattr(flags, name) is not None:
            raise BadOption(f"--{name} is used only with --answers", expected="--answers default, or a file of texts")


def answers_text(found: AnswersComparison, least: float | None) -> str:
    """What a comparison of answers found. `least`: what was given as `--agreement`."""
    what = _WHAT[found.what]
    figures = f"{what} {found.agreement:.6g} on average, {found.least:.6g} at least"
    head = f"Answers of A and B to {counted(len(found.texts), 'text')}: {figures}"
    if least is not None and found.least < least:
        head = f"A and B agree less than {least:g} on {counted(len(found.texts), 'text')}: {figures}"
    ordered = sorted(found.texts, key=lambda each: each.agreement)[:LEAST]
    rows = [
        ("A", f"{found.model_a}: {found.what} by {found.library_a}"),
        ("B", f"{found.model_b}: {found.what} by {found.library_b}"),
        *([("ranking", f"rank correlation {found.ranking:.6g}")] if found.ranking is not None else []),
        *([("nearest", f"{100 * found.nearest:.3g} % of texts have the same nearest text")] if found.nearest is not None
          else []),
        *((("" if n else "least"), _text(each)) for n, each in enumerate(ordered)),
        ("time", time_text(found.seconds)),
    ]  # fmt: skip
    return f"{head}\n{rows_text(rows)}"


def _text(each: TextAgreement) -> str:
    shown = " ".join(each.text.split())
    parts = [
        f"{each.agreement:.6g}",
        *([f"KL {each.kl:.3g}"] if each.kl is not None else []),
        *([f"perplexity {each.perplexity_a:.4g} and {each.perplexity_b:.4g}"]
          if each.perplexity_a is not None and each.perplexity_b is not None else []),
    ]  # fmt: skip
    return f"{', '.join(parts)}: {shown if len(shown) <= 50 else shown[:49] + '…'}"
