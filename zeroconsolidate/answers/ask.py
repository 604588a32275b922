"""A model directory and texts -> its answers, from a process of its own; or those that were recorded earlier."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..archive.json_file import read_json
from ..archive.model_files import is_weights
from ..archive.phrases import listed
from ..errors import BadOption, DamagedFile, NotACheckpoint, OutputFailed, at
from ..integrations import apart
from ..integrations.hub import in_cache, is_hub_id, resolved
from ..integrations.packages import missing

if TYPE_CHECKING:
    from .texts import Text

SECONDS = 3600
"""How long a model may take to load and to answer."""
_FORMAT = "zeroconsolidate answers"
_KINDS = ("embeddings", "scores", "classes", "continuations")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a model answered."""

    model: str
    """The model, as it was given."""
    kind: str
    """`embeddings`, `scores` (of a reranker), `classes` or `continuations` (of a causal model)."""
    library: str
    """What computed them."""
    texts: tuple[Text, ...]
    answers: tuple[Any, ...]
    """By text: a vector, logits, or the tokens of a causal model with log-probabilities."""


def ask(model: str, texts: tuple[Text, ...], *, pooling: str | None, like: Answers | None = None) -> Answers:
    """The answers of a model. `like`: those of the model it is compared with.

    Raises NotACheckpoint or BadOption if it is not a model that can be loaded, MissingPackage without transformers.
    """
    directory = _directory(model)
    if find_spec("transformers") is None:
        raise missing("asking a model", "transformers", extra="answers")
    request: dict[str, Any] = {"texts": texts, "pooling": pooling}
    if like is not None and like.kind == "continuations":
        request["at"] = [answer["likely"] for answer in like.answers]
    script = os.path.join(os.path.dirname(os.path.dirname(__file__)), "integrations", "answer.py")
    try:
        done = subprocess.run(  # noqa: S603  (our own script, no shell)
            apart.command(script, directory), env=apart.environment(), input=json.dumps(request), text=True,
            capture_output=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        found = json.loads(done.stdout.strip().rpartition("\n")[2])
    except subprocess.TimeoutExpired:
        raise BadOption(f"the model took more than {SECONDS} s to answer", found=model) from None
    except ValueError:
        raise BadOption("the model could not be loaded: its process ended without an answer", found=model) from None
    if "error" in found:
        raise BadOption(f"the model could not be asked: {found['error']}", found=model)
    return Answers(
        model=model, kind=found["kind"], library=found["library"], texts=texts, answers=tuple(found["answers"])
    )


def _directory(model: str) -> str:
    directory = model
    if not os.path.lexists(model) and is_hub_id(model):
        directory = in_cache(model, None) or resolved(model)
    if not os.path.isdir(directory):
        raise NotACheckpoint("there is no such directory", expected="a model directory or a hub id", address=(model,))
    names = os.listdir(directory)
    # The weights of sentence-transformers may lie in folders.
    has_weights = "modules.json" in names or any(map(is_weights, names))
    lacks = [what for what, there in (("config.json", "config.json" in names), ("weights", has_weights)) if not there]
    if lacks and "modules.json" not in names:
        raise BadOption(
            "only a model directory can be asked",
            expected="config.json, weights and a tokenizer",
            found=f"no {' and no '.join(lacks)} in {model}",
            remedy="make one of a checkpoint: zeroconsolidate convert CHECKPOINT OUTPUT",
        )
    return directory


def record(path: str, answers: Answers) -> None:
    """Keep answers in a file, for a later comparison. Raises OutputFailed."""
    folder = os.path.dirname(path) or "."
    try:
        number, made = tempfile.mkstemp(prefix=".zeroconsolidate-", suffix=".json", dir=folder)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            json.dump({"format": _FORMAT, "version": 1} | asdict(answers), file)
        os.replace(made, path)
    except OSError as error:
        raise OutputFailed.from_system(path, error) from None


def recorded(path: str) -> Answers:
    """Answers that were kept. Raises DamagedFile if the file is something else."""
    content = read_json(path)
    with at(path):
        if not isinstance(content, dict) or content.get("format") != _FORMAT or content.get("version") != 1:
            raise DamagedFile("the file has no recorded answers", expected="what --record wrote")
        texts, answers = content.get("texts"), content.get("answers")
        if content.get("kind") not in _KINDS or not isinstance(texts, list) or not isinstance(answers, list):
            raise DamagedFile("the recorded answers are not complete", expected=f"one of {listed(_KINDS)}, with texts")
        if not texts or len(texts) != len(answers):
            raise DamagedFile("there is not one answer for each text", expected=len(texts), found=len(answers))
        return Answers(
            model=str(content.get("model")),
            kind=content["kind"],
            library=str(content.get("library")),
            texts=tuple(text if isinstance(text, str) else (str(text[0]), str(text[1])) for text in texts),
            answers=tuple(answers),
        )
