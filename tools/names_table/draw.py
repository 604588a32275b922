"""Random configs of which the table claims to know what follows: values of the kinds it allows, that fit each other."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from zeroconsolidate.naming.table.facts import facts_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

COUNTS_UP_TO = 1024
"""A range that ends below is one of layers, experts, labels: those are drawn small, or building would take all day."""

EQUAL = 0.08
"""How often a size is one of the others, which by chance it nearly never is."""

_DIVIDES = re.compile(r"(?:.* or )?([\w.]+) % ([\w.]+) == 0$")
_PARTS = re.compile(r"(?:.* or )?\(([\w.]+) // ([\w.]+)\) % (\d+) == 0$")
_BELOW = re.compile(r"(?:.* or )?([\w.]+) (<=?) ([\w.]+)$")
_EQUALS = re.compile(r"(?:.* or )?([\w.]+) == ([\w.]+(?: \* [\w.]+)?)$")
_SAME_LENGTHS = re.compile(r"len\(([\w.]+)\) == len\(([\w.]+)\)$")
_SAME_LENGTH = re.compile(r"(?:.* or )?len\(([\w.]+)\) == ([\w.]+)$")


class Drawer:
    """Draws configs of one variant of an entry."""

    def __init__(self, model_type: str, variant: Mapping[str, Any], common: Mapping[str, Any], random: Random) -> None:
        self.variant = variant
        self.model_type, self.fields, self.requires = model_type, variant["fields"], variant["requires"]
        self.common, self.random = common, random

    def config(self, name: str, *, large: bool = False, tries: int = 2000) -> dict[str, Any]:
        """A config of the class `name`. Raises LookupError if the table would know none of those drawn."""
        for _ in range(tries):
            config = self._drawn(self.fields, large=large, top=True)
            self._repair(config)
            self._equate(config, self.fields)
            self._call_otherwise(config, self.fields)
            config = {"model_type": self.model_type, "architectures": [name]} | config
            if facts_of(config, self.variant, self.common) is not None:
                return config
        raise LookupError(f"no config of {self.model_type} fulfils what is required: {self.requires}")

    def _drawn(self, fields: Mapping[str, Any], *, large: bool, top: bool) -> dict[str, Any]:
        config: dict[str, Any] = {}
        sparse = self.random.random() < 0.2
        for key, declared in fields.items():
            if isinstance(declared, str):
                continue
            if isinstance(declared, dict):
                config[key] = self._drawn(declared, large=large, top=False)
            elif len(declared) == 1 or self.random.random() < self._likely(declared[0], sparse=sparse):
                config[key] = self.value(declared[0], large=large)
        for key, kind in self.common["fields"].items():
            if key not in config and key not in ("architectures", "model_type") and self.random.random() < 0.08:
                config[key] = self.value(kind, large=large)
        keys = list(config)
        self.random.shuffle(keys)
        return {key: config[key] for key in keys}

    def _likely(self, kind: Any, *, sparse: bool) -> float:
        """Counts are nearly always said: defaults are large."""
        if _is_count(kind):
            return 0.99
        return 0.4 if sparse else 0.85

    def value(self, kind: Any, *, large: bool = False) -> Any:
        """A value of a kind."""
        random = self.random
        if isinstance(kind, str):
            return self._word(kind, large=large)
        word, rest = kind[0], kind[1:]
        if word == "or":
            return self.value(random.choice(rest), large=large)
        if word == "in":
            return random.choice(rest)
        if word == "int":
            return self._int(*rest, large=large)
        if word in ("float", "number"):
            if word == "number" and random.random() < 0.3:
                return random.choice([n for n in (0, 1, 2, 10, 10000) if rest[0] <= n <= rest[1]] or [int(rest[1])])
            low, high = max(rest[0], 1e-9), rest[1]
            return random.choice([float(rest[0]), min(1.0, high), float(low * (high / low) ** random.random())])
        if word == "list":
            return [self.value(rest[0]) for _ in range(random.randint(0, 5))]
        required, optional = rest
        chosen = [key for key in optional if random.random() < 0.5]
        return {key: self.value(k) for key, k in required.items()} | {key: self.value(optional[key]) for key in chosen}

    def _word(self, kind: str, *, large: bool) -> Any:
        random = self.random
        if kind == "null":
            return None
        if kind == "bool":
            return random.random() < 0.5
        if kind == "text":
            return random.choice(["", "x", "some/model", "4.31.0.dev0"])
        if kind == "map":
            return {f"label {n}": random.choice([n, float(n), str(n), True]) for n in range(random.randint(0, 4))}
        if kind == "labels":
            return {str(n): f"LABEL_{n}" for n in range(random.choice([1, 1, 2, 3, 5, 17]))}
        return self.value(self.common["kinds"][kind[1:]], large=large)

    def _int(self, low: int, high: int, *, large: bool) -> int:
        random = self.random
        if high < COUNTS_UP_TO:
            often = high if large and random.random() < 0.1 else min(high, low + 4)
            return random.randint(low, often)
        if large:
            return int(max(low, 1) * (high / max(low, 1)) ** random.random())
        return random.randint(low, min(high, low + random.choice([3, 40, 200])))

    def _repair(self, config: dict[str, Any]) -> None:
        """Make values fit that have to. What this does not know is left to chance."""
        lookup = Flat(config, self.fields)
        for condition in self.requires:
            if match := _DIVIDES.match(condition):
                divisor = lookup.number(match[2])
                if divisor and lookup.number(match[1]) is not None and lookup.number(match[1]) % divisor:
                    # Half of the time the whole becomes a multiple, so that both vary freely.
                    multiple = divisor * self.random.randint(1, 12)
                    lookup.put(match[1], multiple)
            elif match := _PARTS.match(condition):
                divisor = lookup.number(match[2])
                if divisor and lookup.number(match[1]) is not None:
                    lookup.put(match[1], divisor * int(match[3]) * self.random.randint(1, 12))
            elif match := _BELOW.match(condition):
                low, high = lookup.number(match[1]), lookup.number(match[3])
                if low is not None and high is not None and low >= high:
                    lookup.put(match[1], self.random.randint(0, max(high - 1, 0)))
            elif match := _SAME_LENGTHS.match(condition):
                other = lookup.get(match[2])
                if isinstance(other, list) and isinstance(lookup.get(match[1]), list):
                    lookup.put(match[1], self._list(lookup.kind(match[1]), len(other)))
            elif match := _SAME_LENGTH.match(condition):
                length = lookup.number(match[2])
                if isinstance(lookup.get(match[1]), list) and length is not None:
                    lookup.put(match[1], self._list(lookup.kind(match[1]), length))
            elif match := _EQUALS.match(condition):
                factors = [lookup.number(part) for part in match[2].split(" * ")]
                if lookup.number(match[1]) is not None and None not in factors:
                    product = 1
                    for factor in factors:
                        product *= factor
                    lookup.put(match[1], product)

    def _list(self, kind: Any, length: int) -> list[Any]:
        inner = next(k for k in [kind, *kind[1:]] if k[0] == "list")
        return [self.value(inner[1]) for _ in range(length)]

    def _equate(self, config: dict[str, Any], fields: Mapping[str, Any]) -> None:
        """Give sizes that are free the size of another: classes may leave out what maps the one to the other."""
        sizes = [key for key, value in config.items() if type(value) is int and _is_size(fields.get(key, ["null"]))]
        for key in sizes:
            if self.random.random() < EQUAL:
                config[key] = config[self.random.choice(sizes)]
        for key, declared in fields.items():
            if isinstance(declared, dict):
                self._equate(config[key], declared)

    def _call_otherwise(self, config: dict[str, Any], fields: Mapping[str, Any]) -> None:
        """Put other names in place of keys that have some."""
        for key, declared in fields.items():
            if isinstance(declared, dict):
                self._call_otherwise(config[key], declared)
            elif isinstance(declared, str) and declared in config and self.random.random() < 0.5:
                config[key] = config.pop(declared)


class Flat:
    """A config with configs inside, by dotted names, and defaults where it says nothing."""

    def __init__(self, config: dict[str, Any], fields: Mapping[str, Any]) -> None:
        self._config, self._fields = config, fields

    def get(self, name: str) -> Any:
        *inside, key = name.split(".")
        config, fields = self._config, self._fields
        for part in inside:
            config, fields = config.get(part, {}), fields.get(part, {})
        if key in config:
            return config[key]
        declared = fields.get(key, [None])
        return declared[1] if len(declared) > 1 else None

    def kind(self, name: str) -> Any:
        fields = self._fields
        for part in name.split(".")[:-1]:
            fields = fields[part]
        return fields[name.split(".")[-1]][0]

    def number(self, name: str) -> int | None:
        if name.isdigit():
            return int(name)
        value = self.get(name)
        return value if type(value) is int else None

    def put(self, name: str, value: Any) -> None:
        *inside, key = name.split(".")
        config = self._config
        for part in inside:
            config = config[part]
        config[key] = value


def _is_count(kind: Any) -> bool:
    parts: Sequence[Any] = kind[1:] if kind[0] == "or" else [kind]
    return any(part[0] == "int" and part[2] < COUNTS_UP_TO for part in parts if isinstance(part, list))


def _is_size(declared: Any) -> bool:
    """Whether a field is a number in a range that is no count."""
    if not isinstance(declared, list):
        return False
    kind = declared[0]
    parts = kind[1:] if kind[0] == "or" else [kind]
    return any(isinstance(part, list) and part[0] == "int" and part[2] >= COUNTS_UP_TO for part in parts)
