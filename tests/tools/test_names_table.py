"""The built-in table says what transformers says: a sample of the proof. `python -m names_table prove` is all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from zeroconsolidate.naming.table.expand import Listing
from zeroconsolidate.naming.table.lookup import ENTRIES, looked_up

pytest.importorskip("transformers", minversion="5")

from names_table import prove
from names_table.compact import compacted
from names_table.compare import asked, difference, known
from names_table.conditions import NoCondition, Rows, condition
from names_table.fit import described
from names_table.oracle import Oracle
from names_table.requirements import narrowed, required
from names_table.sizes import NoExpression, size

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(ENTRIES)
HUB: dict[str, Any] = json.loads((Path(__file__).parents[1] / "naming" / "hub_configs.json").read_text())
"""config.json of models on the hub."""
TYPES = sorted(path.stem for path in FOLDER.glob("[!_]*.json"))
CONFIGS = 6
"""For each class. Each run of the tests draws the same ones: what fails here fails everywhere."""


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    import torch

    before = {name: getattr(torch.nn.init, name) for name in dir(torch.nn.init) if name.endswith("_")}
    yield Oracle()
    for name, function in before.items():
        setattr(torch.nn.init, name, function)


@pytest.mark.parametrize("model_type", TYPES)
def test_the_table_and_transformers_agree(model_type: str, oracle: Oracle) -> None:
    (entry,) = prove.entries_in(FOLDER, [model_type])
    proofs = list(prove.proven(entry, FOLDER, oracle, CONFIGS, "sample"))
    assert proofs
    assert [problem for proof in proofs for problem in proof.wrong] == []
    assert all(proof.agreed for proof in proofs)


@pytest.mark.parametrize("name", [name for name, config in HUB.items() if config["model_type"] in TYPES])
@pytest.mark.parametrize("saved", [False, True], ids=["as it is", "saved anew"])
def test_configs_from_the_hub_are_known(name: str, saved: bool, oracle: Oracle) -> None:
    """What people train, and what transformers makes of its config when it saves it beside a checkpoint."""
    config = HUB[name]
    if any("experts" in key for key in config):  # thousands of them take a minute to convert
        config = (
            config
            | {"num_hidden_layers": 2}
            | ({"layer_types": config["layer_types"][:2]} if "layer_types" in config else {})
        )
    config = oracle.saved(config) if saved else config
    assert config is not None
    said, answer = looked_up(config), oracle.ask(config)
    assert said is not None
    assert answer is not None
    assert difference(known(said), asked(answer)) == ""


class TestProof:
    """The proof itself notices what is wrong."""

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (
                '["embed_tokens.weight", "vocab_size", "hidden_size"]',
                '["embed_tokens.weight", "vocab_size", "vocab_size"]',
            ),
            ('"mlp_bias"', '"attention_bias"'),
            ('"to": "num_hidden_layers"', '"to": "2"'),
            ('"tie_word_embeddings", "do"', '"not tie_word_embeddings", "do"'),
            ('"pad_token_id is None or pad_token_id < vocab_size"', '"vocab_size > 0"'),
        ],
    )
    def test_an_entry_with_a_fault(self, before: str, after: str, oracle: Oracle, tmp_path: Path) -> None:
        text = (FOLDER / "llama.json").read_text()
        assert before in text
        (tmp_path / "llama.json").write_text(text.replace(before, after))
        (tmp_path / "_common.json").write_text((FOLDER / "_common.json").read_text())
        (entry,) = prove.entries_in(tmp_path, ["llama"])
        proofs = prove.proven(entry, tmp_path, oracle, 60, "fault")
        assert any(proof.wrong for proof in proofs)


def rows(**columns: list[Any]) -> Rows:
    return Rows([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])


class TestDescribing:
    """What the tool infers is right on what it has seen."""

    def test_sizes(self) -> None:
        seen = rows(a=[3, 5, 7, 11, 13, 17, 19, 23], b=[2, 9, 4, 8, 1, 6, 3, 5], c=[29, 31, 37, 41, 43, 47, 53, 59],
                    flag=[True, False] * 4)  # fmt: skip
        a, b, c = (np.array([row[name] for row in seen.facts]) for name in "abc")
        flag = np.array([row["flag"] for row in seen.facts])
        assert size(seen, np.full(8, 4)) == 4
        assert size(seen, c) == "c"
        assert size(seen, 2 * a + 1) == "2 * a + 1"
        assert size(seen, a * b) == "a * b"
        assert size(seen, c // a) == "c // a"
        assert size(seen, (c // a) * (c // a) + 1) == "(c // a) * (c // a) + 1"
        assert size(seen, np.where(flag, a, b)) == "(a) if flag else (b)"
        with pytest.raises(NoExpression):
            size(seen, np.array([901, 17, 503, 2, 8803, 64, 7, 310]))

    def test_conditions(self) -> None:
        seen = rows(n=[None, 3, None, 4], flag=[True, True, False, False], kind=["x", "y", "y", "z"])
        assert condition(seen, np.array([True] * 4)) == "True"
        assert condition(seen, np.array([True, False, True, False])) == "n is None"
        assert condition(seen, np.array([False, False, True, True])) == "not flag"
        assert condition(seen, np.array([True, False, False, False])) == "kind == 'x'"
        with pytest.raises(NoCondition):
            condition(rows(a=[1, 1]), np.array([True, False]))

    def test_a_listing_with_loops_and_conditions(self) -> None:
        def answer(layers: int, width: int, bias: bool) -> dict[str, Any]:
            names = {"embed": [width]}
            for i in range(layers):
                names[f"layers.{i}.up"] = [width, 2 * width]
                if bias:
                    names[f"layers.{i}.bias"] = [2 * width]
            return {"names": names | {"norm": [width]}}

        facts = [{"layers": 1 + n % 4, "width": 3 + 7 * n, "bias": n % 3 == 0} for n in range(16)]
        assert described(facts, [answer(**each) for each in facts], "names") == [
            ["embed", "width"],
            {"for": "i", "to": "layers", "do": [
                ["layers.{i}.up", "width", "2 * width"],
                {"if": "bias", "do": [["layers.{i}.bias", "2 * width"]]},
            ]},
            ["norm", "width"],
        ]  # fmt: skip

    def test_compacting_changes_nothing_that_is_said(self) -> None:
        nodes = [
            ["embed.weight", "width"],
            {"for": "i", "to": "n", "do": [["layers.{i}." + "x" * 400, "width"]]},
            ["norm.weight", 1],
        ]
        inside = [
            ["model.embed.weight", "width"],
            {"for": "i", "to": "n", "do": [["model.layers.{i}." + "x" * 400, "width"]]},
            ["model.norm.weight", 1],
            ["head", 2],
        ]
        short = compacted({"Base": {"names": nodes}, "Head": {"names": inside}})
        assert short["Head"]["names"] == [{"use": "Base", "at": "model."}, ["head", 2]]
        facts = {"width": 3, "n": 2}
        said = [(name, more) for name, more, _ in Listing(short, facts).entries("Head", "names")]
        plain = {"Head": {"names": inside}}
        assert said == [(name, more) for name, more, _ in Listing(plain, facts).entries("Head", "names")]

    def test_nothing_is_put_before_a_loop_that_it_counts_for(self) -> None:
        inside = {"for": "j", "to": "m", "do": [["layers.{i}.experts.{j}.up", "width"]]}
        nodes = [{"for": "i", "to": "n", "do": [inside, inside]}]
        short = compacted({"Base": {"names": nodes}})
        assert short["Base"]["names"][0]["at"] == "layers.{i}.experts."
        listing = Listing(short, {"width": 3, "n": 1, "m": 2})
        assert [name for name, _, _ in listing.entries("Base", "names")] == [
            "layers.0.experts.0.up",
            "layers.0.experts.1.up",
        ] * 2

    def test_requirements(self) -> None:
        good = [{"a": 4 * n, "b": 4, "n": 1} for n in range(1, 9)]
        bad = [{"a": 4 * n + 1, "b": 4, "n": 1} for n in range(1, 9)]
        found, untold = required(good, bad)
        assert untold == []
        assert found == ["a % 2 == 0"] or found == ["a % b == 0"]

    def test_values_that_never_work_are_left_out(self) -> None:
        fields = {"a": [["or", "null", ["int", 1, 9]], 1]}
        assert narrowed(fields, [{"a": 1}] * 9, [{"a": None}] * 9, {}) == "a is never null"
        assert fields == {"a": [["int", 1, 9], 1]}
