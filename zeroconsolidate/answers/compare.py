"""The function that compares the answers of two models."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from ..errors import BadOption
from ..options import AnswersOptions, takes
from .agreement import agreement
from .ask import ask, record, recorded
from .texts import DEFAULT, read_texts

if TYPE_CHECKING:
    from ..options import Path
    from .agreement import AnswersComparison


@takes(AnswersOptions)
def compare_answers(a: Path, b: Path, options: AnswersOptions) -> AnswersComparison:
    """Ask two models the same texts, and compare their answers.

    Each model is loaded by the library that serves such models, in a process of its own, on the CPU in float32:
    embeddings by sentence-transformers or FlagEmbedding where they are installed and the directory is one of theirs,
    all others by transformers.

    Parameters
    ----------
    a : str or os.PathLike
        The first model: a directory, a hub id, or a file that `record` wrote of it.
    b : str or os.PathLike
        The second: a directory or a hub id.

    Returns
    -------
    AnswersComparison
        Cosine and ranking agreement of embeddings, scores of rerankers, classes; agreement of the next token,
        divergence and perplexity of causal models.

    Raises
    ------
    BadOption
        If a model cannot be loaded, or parameters of it would be random.
    MissingPackage
        If transformers is not installed.
    DamagedFile
        If a file of recorded answers is something else.
    Disagreement
        If the models are of different kinds, or their answers of different sizes.
    OutputFailed
        If the file of `record` cannot be written.

    Examples
    --------
    >>> import zeroconsolidate
    >>> found = zeroconsolidate.compare_answers("before", "after", texts="questions.jsonl")  # doctest: +SKIP
    >>> found.least  # doctest: +SKIP
    0.9987
    """
    began, first, second = time.monotonic(), os.fspath(a), os.fspath(b)
    if os.path.isfile(first):
        kept = recorded(first)
        if options.texts is not None and os.fspath(options.texts) != DEFAULT:
            raise BadOption("the texts are those that were recorded", expected="no other file of texts", found=first)
        if options.record is not None:
            raise BadOption("the answers of A are recorded already", found=first)
    else:
        texts = read_texts(os.fspath(options.texts or DEFAULT))
        options.doing(f"asking {first}")
        kept = ask(first, texts, pooling=options.pooling)
        if options.record is not None:
            record(os.fspath(options.record), kept)
    options.doing(f"asking {second}")
    other = ask(second, kept.texts, pooling=options.pooling, like=kept)
    return agreement(kept, other, time.monotonic() - began)
