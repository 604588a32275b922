"""Holds the table against transformers, on configs that nothing was inferred from: the same answer, or none.

transformers 4 builds no models of some configs that 5 builds: values it does not know, or null where it wants a number.
Nobody has another answer for these; they are counted apart. With 5, which the table was made with, they are wrong.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from names_table.compare import asked, difference, known
from names_table.draw import Drawer
from names_table.oracle import MAJOR
from zeroconsolidate.naming.table.facts import facts_of
from zeroconsolidate.naming.table.lookup import looked_up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from names_table.oracle import Oracle

ODD = [None, True, False, 0, -1, 1, 3, 1.5, "", "odd", [], [1], ["x"], {}, {"x": 1}, 1 << 40, "7"]


@dataclass
class Proof:
    """What came of it, for one class."""

    name: str
    agreed: int = 0
    unknown: int = 0
    """Configs on which the table says nothing."""
    refused: int = 0
    """Configs that the table knows, and of which transformers 4 builds no model."""
    saved: int = 0
    """Of those in the form in which transformers writes them, how many there were."""
    saved_known: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Why it did not know of those."""
    refusals: Counter[str] = field(default_factory=Counter)
    """What transformers 4 said of those it builds no model of."""
    wrong: list[str] = field(default_factory=list)


def entries_in(folder: Path, types: list[str]) -> Iterator[dict[str, Any]]:
    """The entries of the table, or some of them."""
    for path in sorted(folder.glob("[!_]*.json")):
        if not types or path.stem in types:
            yield json.loads(path.read_text())


def proven(entry: dict[str, Any], folder: Path, oracle: Oracle, configs: int, seed: object) -> Iterator[Proof]:
    """One proof for each class of an entry that this transformers has."""
    import transformers

    common = json.loads((folder / "_common.json").read_text())
    if entry["model_type"] not in transformers.CONFIG_MAPPING:
        return
    unused = entry.get("differs", {}).get(str(MAJOR), ())
    for number, variant in enumerate(entry["variants"]):
        for name in variant["classes"]:
            if hasattr(transformers, name) and name not in unused:
                random = Random(f"{seed} {entry['model_type']} {number} {name}")
                drawer = Drawer(entry["model_type"], variant, common, random)
                yield _proof(name, drawer, folder, oracle, configs, random)


def _proof(name: str, drawer: Drawer, folder: Path, oracle: Oracle, configs: int, random: Random) -> Proof:
    proof = Proof(name)
    for number in range(configs):
        # Where layouts are converted, large tensors are traced row by row: that takes all day. So do tables of sines,
        # which transformers 4 computes for every model it builds.
        small = MAJOR < 5 or "hub" in drawer.variant["classes"][name]
        config = drawer.config(name, large=number % 4 == 3 and not small)
        drawn = True
        if number % 3 == 1:
            saved = oracle.saved(config)
            config, drawn = saved or config, saved is None
        elif number % 6 == 2:
            config, drawn = mutated(config, random), False
        said = looked_up(config, entries=str(folder))
        if number % 3 == 1:
            proof.saved += 1
            proof.saved_known += said is not None
            if said is None:
                proof.reasons[why(config, drawer)] += 1
        if said is None:
            if drawn:
                proof.wrong.append(f"the table knows nothing of a config it drew: {json.dumps(config)}")
            proof.unknown += 1
            continue
        answer = oracle.ask(config, thorough=number % 24 == 0)
        if answer is None and MAJOR < 5:
            proof.refused += 1
            proof.refusals[oracle.error[:100]] += 1
            continue
        problem = f"transformers says {oracle.error}" if answer is None else compared(known(said), asked(answer))
        if problem:
            proof.wrong.append(f"{problem}, for {json.dumps(config)}")
        else:
            proof.agreed += 1
    return proof


def why(config: dict[str, Any], drawer: Drawer) -> str:
    """What of a config is unknown to the table."""
    for key in config:
        if facts_of({k: v for k, v in config.items() if k != key}, drawer.variant, drawer.common) is not None:
            return f"{key} {json.dumps(config[key])}"
    return "several things"


def compared(table: dict[str, Any], answer: dict[str, Any]) -> str:
    """How the answers differ. transformers 4 has in memory what 5 has there or what is in files, and lists no ties."""
    if MAJOR >= 5:
        return difference(table, answer)
    names = sorted(answer["names"])
    if names in (sorted(table["names"]), sorted(table["hub"])):
        return ""
    return difference({"names": table["hub"]}, answer)


def mutated(config: dict[str, Any], random: Random) -> dict[str, Any]:
    """A config with one value, of its own or of a config inside it, that may be out of place."""
    config = json.loads(json.dumps(config))
    inner = random.choice([config, *(value for value in config.values() if isinstance(value, dict))])
    keys = [key for key in inner if key not in ("model_type", "architectures")] or ["odd"]
    key = random.choice([*keys, *keys, "odd_key", "quantization_config", "auto_map"])
    if random.random() < 0.3:
        inner.pop(key, None)
    else:
        inner[key] = random.choice(ODD)
    return config
