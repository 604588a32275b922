"""Makes the entry of a model type: fields, what must hold between them, and a description of each class."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from names_table.common import FIELDS, KINDS
from names_table.compact import compacted
from names_table.compare import asked, difference, known
from names_table.draw import Drawer
from names_table.families import FAMILIES
from names_table.fit import described
from names_table.listing import WHICH
from names_table.oracle import VERSION
from names_table.requirements import narrowed, required
from names_table.variants import variants_of
from zeroconsolidate.naming.table.facts import facts_of
from zeroconsolidate.naming.table.lookup import answered

if TYPE_CHECKING:
    from names_table.oracle import Oracle

COMMON: dict[str, Any] = {"fields": FIELDS, "kinds": KINDS}
SAMPLES = 90
ROUNDS = 12
AGREE = 150
"""Fresh configs in a row on which a description must agree before it is done."""


class CannotDescribe(ValueError):
    """A class that the table has no words for."""


@dataclass
class Sample:
    """A config, what is said in it, and the answer."""

    config: dict[str, Any]
    facts: dict[str, Any]
    answer: dict[str, Any]


def classes_of(model_type: str) -> list[str]:
    """All model classes of a model type, the one without a head first."""
    import transformers

    config = transformers.CONFIG_MAPPING[model_type]
    module = importlib.import_module(config.__module__.replace(".configuration_", ".modeling_"))
    found = [
        name
        for name in getattr(module, "__all__", [])
        if inspect.isclass(kind := getattr(module, name, None))
        and issubclass(kind, transformers.PreTrainedModel)
        and kind.config_class is config
        and "pretrained" not in name.lower()
        and hasattr(transformers, name)
    ]
    return sorted(found, key=lambda name: (not name.endswith("Model"), found.index(name)))


def entry_of(model_type: str, oracle: Oracle) -> tuple[dict[str, Any], list[str]]:
    """The entry of a model type, and which classes could not be described."""
    variants, problems = [], []
    for variant in variants_of(model_type):
        maker = Maker(model_type, variant, oracle, FAMILIES[model_type].get("hints", []))
        for name in classes_of(model_type):
            try:
                maker.narrow(name)
                maker.describe(name)
            except CannotDescribe as error:
                variant["classes"].pop(name, None)
                problems.append(str(error))
        variant["classes"] = compacted(variant["classes"])
        problems += maker.without_what_differs()
        variants.append(variant)
    return {"model_type": model_type, "transformers": [VERSION], "variants": variants}, problems


class Maker:
    """Describes the classes of one variant, asking as often as it takes."""

    def __init__(
        self, model_type: str, variant: dict[str, Any], oracle: Oracle, hints: list[str], seed: int = 0
    ) -> None:
        self.variant, self._oracle, self._hints = variant, oracle, hints
        self._random = Random(f"{model_type} {seed}")
        self._drawer = Drawer(model_type, variant, COMMON, self._random)

    def narrow(self, name: str) -> None:
        """Take values out of the fields' kinds with which the class is never built."""
        while True:
            good: list[dict[str, Any]] = []
            bad: list[dict[str, Any]] = []
            for number in range(100):
                config = self._drawer.config(name)
                (bad if self._oracle.ask(config) is None else good).append(config)
                if number == 20 and not bad:
                    return
            said = narrowed(self.variant["fields"], good, bad, KINDS) if good else ""
            if not said:
                return
            print(f"  {name}: {said}", flush=True)

    def describe(self, name: str) -> None:
        """Add the class to the variant. Raises CannotDescribe."""
        samples = [self._sample(name) for _ in range(SAMPLES)]
        agreed = 0
        for _ in range(ROUNDS):
            try:
                self.variant["classes"][name] = self._described(samples)
            except ValueError as error:
                raise CannotDescribe(f"{name}: {error}") from None
            agreed, wrong = 0, []
            while agreed < AGREE and len(wrong) < 10:
                sample = self._sample(name)
                said = answered(name, self.variant["classes"], sample.facts, "0.0.0")
                if said is not None and not difference(known(said), asked(sample.answer)):
                    agreed += 1
                else:
                    wrong.append(sample)
            if not wrong:
                return
            samples += wrong
        raise CannotDescribe(f"{name}: still disagrees after {ROUNDS} rounds, as for {samples[-1].config}")

    def without_what_differs(self) -> list[str]:
        """Take out classes that do not say what transformers does now that they are in their last form."""
        problems = []
        for name in list(self.variant["classes"]):
            for sample in [self._sample(name) for _ in range(AGREE // 5)]:
                said = answered(name, self.variant["classes"], sample.facts, "0.0.0")
                if said is None or difference(known(said), asked(sample.answer)):
                    problems.append(f"{name}: says something else after it was shortened")
                    break
        for problem in problems:
            del self.variant["classes"][problem.partition(":")[0]]
        return problems

    def _described(self, samples: list[Sample]) -> dict[str, Any]:
        facts, answers = [s.facts for s in samples], [s.answer for s in samples]
        converts = any(list(a["hub"].items()) != list(a["names"].items()) or a["conversions"] for a in answers)
        which = WHICH if converts else ("names", "ties")
        listings = {w: described(facts, answers, w, self._hints) for w in which}
        return {w: nodes for w, nodes in listings.items() if nodes or w == "names"}

    def _sample(self, name: str) -> Sample:
        """A config that transformers builds. What must hold for that is found out on the way."""
        good: list[dict[str, Any]] = []
        bad: list[dict[str, Any]] = []
        errors: dict[int, str] = {}
        while True:
            config = self._drawer.config(name)
            answer = self._oracle.ask(config)
            if answer is not None and answer["integers"]:
                raise CannotDescribe(
                    f"{name}: whole numbers, for which the table has no words: {answer['integers'][:3]}"
                )
            facts = facts_of(config, self.variant, COMMON)
            assert facts is not None
            if answer is not None and not bad:
                return Sample(config, facts, answer)
            (bad if answer is None else good).append(facts)
            if answer is None:
                errors[id(facts)] = f"{self._oracle.error}, as for {config}"
            if len(bad) + len(good) == 60:
                found, untold = required(good, bad)
                if untold or len(good) < 5:
                    error = errors[id((untold or bad)[0])]
                    raise CannotDescribe(f"{name}: {error}; {len(good)} were built, {len(bad)} not")
                print(f"  {name} requires {found}")
                self.variant["requires"] += found
                good, bad = [], []
