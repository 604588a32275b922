"""What an adapter was trained for, which may be another head than the base model has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import Disagreement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..naming.hub_layout import Architecture
    from ..plan.build import Source
    from .peft_config import PeftConfig

AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
"""PEFT's tasks (`peft/utils/peft_types.py`) whose model has a head of its own -> what loads it."""
_HEADED = re.compile(r"For(?:\w*Classification|QuestionAnswering|MultipleChoice|NextSentencePrediction|\w*Regression)$")
"""How the names of classes with such a head end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedAs:
    """The class that was trained, as config.json must state it."""

    class_name: str
    labels: int | None
    """How many labels its head has, if config.json states another number."""


def task_of(configs: Iterable[PeftConfig]) -> str | None:
    """The task, or the name of the class, that adapters were trained for, if it has a head of its own.

    Raises Disagreement if they were trained for several.
    """
    found = dict.fromkeys(task for config in configs if (task := _task(config)) is not None)
    if len(found) > 1:
        raise Disagreement(f"the adapters were trained for several tasks: {', '.join(found)}")
    return next(iter(found), None)


def _task(config: PeftConfig) -> str | None:
    task, mapping = config.content.get("task_type"), config.content.get("auto_mapping")
    if isinstance(task, str) and task in AUTO_CLASSES:
        return task
    # PEFT writes the class down where it was told no task.
    name = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    return name if isinstance(name, str) and _HEADED.search(name) else None


def trained_as(named: Mapping[str, Source], architecture: Architecture) -> TrainedAs:
    """The class, and the number of labels that the rows of its head show. Raises Disagreement if they differ."""
    rows = set()
    for name, source in named.items():
        expected = architecture.hub.shapes.get(name)
        if expected and expected[0] == architecture.labels and expected[1:] == source.shape[1:]:
            rows.add(source.shape[0])
    rows.discard(architecture.labels)
    if len(rows) > 1:
        raise Disagreement("the tensors of the head have different numbers of rows", found=sorted(rows))
    return TrainedAs(class_name=architecture.class_name, labels=next(iter(rows), None))
