"""The answers of two models -> how far they agree, in float64."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Disagreement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .ask import Answers

    Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextAgreement:
    """How far two models agree on one text.

    Attributes
    ----------
    text : str
        The text; of a pair, query and passage.
    agreement : float
        Of embeddings, the cosine of both vectors. Of a causal model, the share of positions with the same likeliest
        next token. Of classes, 1 or 0: whether the likeliest is the same. Of a reranker, 1 less the distance of both
        scores as probabilities.
    kl : float | None
        Of a causal model and of classes: Kullback-Leibler divergence of the second from the first in nats, of a causal
        model its mean over positions. None for others.
    perplexity_a : float | None
        Of a causal model: perplexity of the text for the first.
    perplexity_b : float | None
        The same for the second.

    Examples
    --------
    >>> TextAgreement(text="a", agreement=1.0, kl=None, perplexity_a=None, perplexity_b=None).agreement
    1.0
    """

    text: str
    agreement: float
    kl: float | None
    perplexity_a: float | None
    perplexity_b: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersComparison:
    """How far the answers of two models agree.

    :func:`zeroconsolidate.compare_answers` returns it.

    Attributes
    ----------
    model_a : str
        The first, or the file with its recorded answers.
    model_b : str
        The second.
    what : str
        What they answer: `embeddings`, `scores`, `classes` or `continuations`.
    library_a : str
        What computed the answers of the first.
    library_b : str
        What computed those of the second.
    agreement : float
        Mean of the agreement on each text.
    least : float
        The least agreement on a text.
    ranking : float | None
        Of embeddings and rerankers: mean rank correlation (Spearman). For each text, of the others by cosine; of a
        reranker, of all texts by score. None for others, and for fewer than three texts.
    nearest : float | None
        Of embeddings: share of texts whose nearest other text is the same. None for others.
    texts : tuple[TextAgreement, ...]
        By text.
    seconds : float
        How long it took.

    Examples
    --------
    >>> AnswersComparison(
    ...     model_a="a", model_b="b", what="classes", library_a="x", library_b="x", agreement=1.0, least=1.0,
    ...     ranking=None, nearest=None, texts=(), seconds=0.1,
    ... ).to_dict()["agreement"]
    1.0
    """

    model_a: str
    model_b: str
    what: str
    library_a: str
    library_b: str
    agreement: float
    least: float
    ranking: float | None
    nearest: float | None
    texts: tuple[TextAgreement, ...]
    seconds: float

    def to_dict(self) -> dict[str, object]:
        """Return the fields as plain values, ready for JSON.

        Returns
        -------
        dict
            The fields by name, and those within them.
        """
        return asdict(self)


def agreement(a: Answers, b: Answers, seconds: float) -> AnswersComparison:
    """Compare the answers to the same texts. Raises Disagreement if they are not of one kind and size."""
    if a.kind != b.kind:
        raise Disagreement(f"{a.model} gives {a.kind}, and {b.model} gives {b.kind}: they cannot be compared")
    ranking = nearest = None
    if a.kind == "continuations":
        texts = [_continuation(*each) for each in zip(map(_said, a.texts), a.answers, b.answers, strict=True)]
    else:
        left, right = _matrix(a), _matrix(b)
        if left.shape != right.shape:
            raise Disagreement(
                f"the {a.kind} of both differ in size", expected=f"{left.shape[1]}, as {a.model}", found=right.shape[1]
            )
        if a.kind == "embeddings":
            texts = [_alone(text, _cosine(x, y)) for text, x, y in zip(map(_said, a.texts), left, right, strict=True)]
            ranking, nearest = _neighbours(left, right)
        elif a.kind == "scores":
            chances = [1 / (1 + np.exp(-side[:, 0])) for side in (left, right)]
            texts = [
                _alone(text, 1 - abs(float(x - y))) for text, x, y in zip(map(_said, a.texts), *chances, strict=True)
            ]
            ranking = _spearman(left[:, 0], right[:, 0]) if len(left) > 2 else None
        else:
            texts = [_classes(text, x, y) for text, x, y in zip(map(_said, a.texts), left, right, strict=True)]
    shares = [text.agreement for text in texts]
    return AnswersComparison(
        model_a=a.model, model_b=b.model, what=a.kind, library_a=a.library, library_b=b.library,
        agreement=math.fsum(shares) / len(shares), least=min(shares), ranking=ranking, nearest=nearest,
        texts=tuple(texts), seconds=seconds,
    )  # fmt: skip


def _said(text: str | Sequence[str]) -> str:
    return text if isinstance(text, str) else " | ".join(text)


def _alone(text: str, share: float) -> TextAgreement:
    return TextAgreement(text=text, agreement=share, kl=None, perplexity_a=None, perplexity_b=None)


def _matrix(answers: Answers) -> Doubles:
    try:
        found = np.array(answers.answers, np.float64)
    except (ValueError, TypeError):
        found = np.empty(0)
    if found.ndim != 2:
        raise Disagreement(f"the answers of {answers.model} are not numbers of one size for each text")
    return found


def _cosine(x: Doubles, y: Doubles) -> float:
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norms if norms else float(np.array_equal(x, y))


def _neighbours(left: Doubles, right: Doubles) -> tuple[float | None, float | None]:
    """(mean rank correlation of the other texts by cosine, share of texts with the same nearest one)."""
    if len(left) < 3:
        return None, None
    sides = []
    for side in (left, right):
        norms = np.linalg.norm(side, axis=1, keepdims=True)
        unit = side / np.where(norms == 0, 1, norms)
        sides.append(unit @ unit.T)
    correlations, same = [], 0
    for n in range(len(left)):
        x, y = (np.delete(side[n], n) for side in sides)
        correlations.append(_spearman(x, y))
        same += int(np.argmax(x) == np.argmax(y))
    return math.fsum(correlations) / len(left), same / len(left)


def _spearman(x: Doubles, y: Doubles) -> float:
    """Rank correlation; equal values have the mean of their ranks. 1 if neither differs at all."""
    ranks = [_ranks(side) - (len(side) - 1) / 2 for side in (x, y)]
    norms = float(np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1]))
    if not norms:
        return float(not ranks[0].any() and not ranks[1].any())
    return float(ranks[0] @ ranks[1]) / norms


def _ranks(values: Doubles) -> Doubles:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: Doubles = (ends - counts + ends - 1) / 2
    return means[place]


def _classes(text: str, x: Doubles, y: Doubles) -> TextAgreement:
    p, q = (side - side.max() - np.log(np.exp(side - side.max()).sum()) for side in (x, y))
    same = float(np.argmax(x) == np.argmax(y))
    kl = max(float(np.exp(p) @ (p - q)), 0.0)
    return TextAgreement(text=text, agreement=same, kl=kl, perplexity_a=None, perplexity_b=None)


def _continuation(text: str, a: Any, b: Any) -> TextAgreement:
    """Of the tokens that the first finds likely and of all others together: a lower bound of the divergence, which is
    near to it where those tokens have nearly all of the probability."""
    if a["tokens"] != b["tokens"]:
        raise Disagreement("the tokenizers of both models cut a text into different tokens", found=text[:60])
    same = np.mean(np.array(a["next"]) == np.array(b["next"]))
    p, q = np.array(a["logs"], np.float64), np.array(b["logs"], np.float64)
    divergence = (np.exp(p) * (p - q)).sum(1)
    rest_p, rest_q = (np.maximum(1 - np.exp(side).sum(1), 0) for side in (p, q))
    is_left = (rest_p > 1e-12) & (rest_q > 1e-12)
    divergence[is_left] += rest_p[is_left] * np.log(rest_p[is_left] / rest_q[is_left])
    perplexities = [math.exp(-math.fsum(own) / len(own)) if (own := side["own"]) else None for side in (a, b)]
    return TextAgreement(
        text=text, agreement=float(same), kl=max(float(divergence.mean()), 0.0), perplexity_a=perplexities[0],
        perplexity_b=perplexities[1],
    )  # fmt: skip
