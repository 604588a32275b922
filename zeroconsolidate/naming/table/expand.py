"""Names, shapes, ties and conversions of one class, written out for the facts of one config.

A listing is what the table has for each of them, a list of nodes:

| node | stands for |
|---|---|
| `["norm.weight", "hidden_size"]` | one entry: its name, then what it says |
| `{"for": "i", "to": "num_hidden_layers", "at": "layers.{i}.", "do": […]}` | nodes for i = 0, 1, …, behind a prefix |
| `{"if": "attention_bias", "do": […]}` | nodes that are there only if |
| `{"use": "LlamaModel", "at": "model."}` | the same listing of another class, or its nodes from `"nodes": [0, 3]` |

`{i}` in a name is the counter, or another expression of it. An entry of `names` and `hub` says a shape, one of `ties`
the name that is kept, one of `conversions` how rows of inputs make it up.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .expression import evaluate, names_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .expression import Facts

COUNTERS = ("i", "j", "k")
_FIELD = re.compile(r"\{([^}]*)\}")
_UNKNOWN, _COUNTED = object(), object()
MAX_ENTRIES = 1 << 20
"""More names than any model has: the table does not answer a config that asks for more."""


class Listing:
    """Expands listings of `classes` for one set of facts; what does not depend on a counter is evaluated once."""

    def __init__(self, classes: Mapping[str, Mapping[str, Any]], facts: Facts) -> None:
        self._classes = classes
        self._facts: dict[str, Any] = dict(facts)
        """With the counters as they stand."""
        self._constant: dict[str, Any] = {}
        self._left = MAX_ENTRIES

    def entries(self, name: str, which: str, prefix: str = "") -> Iterator[tuple[str, list[Any], str]]:
        """(name, what is said of it, prefix of other names in there) for each entry of a class's listing.

        Call `value` and `named` before the next entry is taken. Raises what is in UNDECIDED.
        """
        yield from self._walk(self._classes[name].get(which, []), which, prefix, prefix)

    def value(self, text: str | int) -> Any:
        """The value of an expression at this entry."""
        if isinstance(text, int):
            return text
        known = self._constant.get(text, _UNKNOWN)
        if known is _COUNTED:
            return evaluate(text, self._facts)
        if known is _UNKNOWN:
            known = evaluate(text, self._facts)
            self._constant[text] = known if names_in(text).isdisjoint(COUNTERS) else _COUNTED
        return known

    def named(self, template: str) -> str:
        """A name with counters filled in."""
        return _FIELD.sub(lambda match: str(self.value(match[1])), template) if "{" in template else template

    def _walk(self, nodes: Sequence[Any], which: str, prefix: str, base: str) -> Iterator[tuple[str, list[Any], str]]:
        for node in nodes:
            if isinstance(node, list):
                self._left -= 1
                if self._left < 0:
                    raise ValueError("too many names")
                yield prefix + self.named(node[0]), node[1:], base
            elif "if" in node and not self.value(node["if"]):
                continue
            elif "use" in node:
                inside = prefix + node["at"]
                used = self._classes[node["use"]].get(which, [])
                yield from self._walk(used[slice(*node.get("nodes", (None,)))], which, inside, inside)
            elif "for" in node:
                yield from self._counted(node, which, prefix, base)
            else:
                yield from self._walk(node["do"], which, prefix, base)

    def _counted(
        self, node: Mapping[str, Any], which: str, prefix: str, base: str
    ) -> Iterator[tuple[str, list[Any], str]]:
        counter = node["for"]
        if counter in self._facts:
            raise ValueError(f"{counter} counts already")
        for number in range(self.value(node["to"])):
            self._facts[counter] = number
            yield from self._walk(node["do"], which, prefix + self.named(node.get("at", "")), base)
        self._facts.pop(counter, None)
