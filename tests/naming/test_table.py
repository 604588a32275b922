"""The built-in table: confirms what is exactly as it says, knows nothing of anything else, and never guesses.

That it says what transformers says is proven by `tests/tools/test_names_table.py`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_cases import ROOT, ModelCase, model_cases

from zeroconsolidate import consolidate
from zeroconsolidate.api.converting import dry_run
from zeroconsolidate.errors import ZeroConsolidateError
from zeroconsolidate.naming import asking, remembered, sources
from zeroconsolidate.naming.table import expand
from zeroconsolidate.naming.table.expand import Listing
from zeroconsolidate.naming.table.expression import UNDECIDED, evaluate, names_in
from zeroconsolidate.naming.table.facts import facts_of
from zeroconsolidate.naming.table.kinds import accepts
from zeroconsolidate.naming.table.lookup import ENTRIES, differing, looked_up
from zeroconsolidate.outputs.gate import model as gate_model

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if transformers were not installed."""
    monkeypatch.setattr(asking, "find_spec", lambda _: None)


class TestExpressions:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("7", 7),
            ("a * b + 1", 13),
            ("a // 2 - -b", 5),
            ("2 ** a", 8),
            ("c.d[1]", 6),
            ("len(c.d) + sum(c.d)", 13),
            ("n is None", True),
            ("n is not None and n > 1", False),
            ("a if flag else b", 3),
            ("not flag or a != 3", False),
            ("a in c.d", False),
            ("kind == 'x'", True),
            ("max(a, b)", 4),
        ],
    )
    def test_values(self, text: str, value: object) -> None:
        facts = {"a": 3, "b": 4, "n": None, "flag": True, "kind": "x", "c.d": [5, 6]}
        assert evaluate(text, facts) == value

    @pytest.mark.parametrize(
        "text",
        [
            "__import__('os')",
            "a.b()",
            "[1, 2]",
            "a if b",
            "lambda: 1",
            "f'{a}'",
            "a < b < c",
            "len(a, key=b)",
            "(a := 1)",
        ],
    )
    def test_nothing_else_is_evaluated(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"language|expression"):
            evaluate(text, {"a": 1, "b": 1, "c": 1})

    @pytest.mark.parametrize("text", ["missing", "n + 1", "a // 0", "c.d[2]", "len(a)"])
    def test_what_cannot_be_said_is_undecided(self, text: str) -> None:
        with pytest.raises(UNDECIDED):
            evaluate(text, {"a": 1, "n": None, "c.d": [1]})

    def test_names(self) -> None:
        assert names_in("len(a.b) * c if d else i") == {"a.b", "c", "d", "i"}
        assert names_in(3) == frozenset()


class TestKinds:
    @pytest.mark.parametrize(
        ("kind", "good", "bad"),
        [
            ("null", [None], [0, "", False]),
            ("bool", [True, False], [0, 1, None, "true"]),
            ("text", ["", "x"], [None, 1, ["x"]]),
            (["int", 1, 8], [1, 8], [0, 9, 1.0, True, None, "1"]),
            (["float", 0.0, 1.0], [0.0, 0.5], [0, 1, 1.5, float("nan"), float("inf"), None]),
            (["number", 0.0, 1.0], [0, 0.5, 1], [True, -0.1, float("nan"), "0"]),
            (["in", 1, "x", True], [1, "x", True], [1.0, "y", False, None]),
            (["list", "bool"], [[], [True]], [[1], None, (True,), {}]),
            ("map", [{}, {"a": 1, "b": "c"}], [[], {"a": None}, {"a": []}, None]),
            ("labels", [{}, {"0": "a", "1": "b"}], [{"1": "a"}, {"0": 1}, {"x": "a"}, ["a"]]),
            (["object", {"a": "bool"}, {"b": "null"}], [{"a": True}, {"a": True, "b": None}],
             [{}, {"b": None}, {"a": True, "c": 1}, {"a": 1}, []]),
            (["or", "null", ["int", 0, 1]], [None, 0], [2, "x"]),
            ("@named", [None], [1]),
            ("unheard-of", [], [None, 1, "unheard-of"]),
        ],
    )  # fmt: skip
    def test_values(self, kind: Any, good: list[object], bad: list[object]) -> None:
        named = {"named": "null"}
        assert [value for value in good if not accepts(kind, value, named)] == []
        assert [value for value in bad if accepts(kind, value, named)] == []


class TestFacts:
    VARIANT: ClassVar[dict[str, Any]] = {
        "fields": {
            "size": [["int", 1, 9], 4],
            "width": "size",
            "said": ["bool"],
            "inside": {"depth": [["int", 1, 9]]},
        },
        "requires": ["size > 1 or said"],
        "derived": {"double": "2 * size"},
        "labels": 2,
    }
    COMMON: ClassVar[dict[str, Any]] = {
        "fields": {"harmless": "text", "id2label": "labels", "num_labels": ["int", 1, 9]},
        "kinds": {},
    }
    CONFIG: ClassVar[dict[str, Any]] = {"said": True, "inside": {"depth": 3}}

    def facts(self, **more: object) -> dict[str, Any] | None:
        return facts_of(self.CONFIG | more, self.VARIANT, self.COMMON)

    def test_values_defaults_and_what_follows(self) -> None:
        assert self.facts() == {"size": 4, "said": True, "inside.depth": 3, "double": 8, "num_labels": 2}

    def test_a_value_may_be_said_twice(self) -> None:
        assert self.facts(width=3, size=3) == self.facts(size=3)

    @pytest.mark.parametrize(
        "more",
        [
            {"odd": 1},
            {"size": 10},
            {"size": None},
            {"width": 10},
            {"width": 3, "size": 4},
            {"harmless": 1},
            {"inside": {"depth": 3, "odd": 1}},
            {"inside": [3]},
            {"inside": {"depth": 0}},
            {"size": 1, "said": False},
            {"id2label": {"0": "x"}, "num_labels": 3},
            {"id2label": {}},
        ],
    )
    def test_anything_unknown_is_unknown(self, more: dict[str, object]) -> None:
        assert self.facts(**more) is None

    def test_a_field_may_have_another_name(self) -> None:
        assert self.facts(width=3) == self.facts(size=3)

    def test_so_is_a_config_inside_that_is_left_out(self) -> None:
        assert facts_of({"said": True}, self.VARIANT, self.COMMON) is None

    def test_labels_are_counted(self) -> None:
        found = self.facts(id2label={"0": "a", "1": "b", "2": "c"})
        assert found is not None
        assert found["num_labels"] == 3


class TestListings:
    CLASSES: ClassVar[dict[str, Any]] = {
        "Base": {
            "names": [
                ["embed", "width"],
                {"for": "i", "to": "layers", "at": "layers.{i}.", "do": [
                    ["norm", "width"],
                    {"if": "i >= dense", "do": [
                        {"for": "j", "to": 2, "at": "experts.{j}.", "do": [["up", "width * (j + 1)"]]}]}]},
                ["last", 1],
            ],
            "ties": [["embed", "last"]],
        },
        "Head": {
            "names": [{"use": "Base", "at": "model."}, ["head", "width"]],
            "ties": [{"use": "Base", "at": "model."}],
        },
        "Part": {"names": [{"use": "Base", "at": "a.", "nodes": [0, 1]}]},
    }  # fmt: skip
    FACTS: ClassVar[dict[str, int]] = {"width": 3, "layers": 2, "dense": 1}

    def names(self, kind: str) -> dict[str, list[int]]:
        listing = Listing(self.CLASSES, self.FACTS)
        return {name: [listing.value(each) for each in said] for name, said, _ in listing.entries(kind, "names")}

    def test_loops_conditions_and_uses(self) -> None:
        base = {
            "embed": [3],
            "layers.0.norm": [3],
            "layers.1.norm": [3],
            "layers.1.experts.0.up": [3],
            "layers.1.experts.1.up": [6],
            "last": [1],
        }
        assert self.names("Base") == base
        assert self.names("Head") == {f"model.{name}": shape for name, shape in base.items()} | {"head": [3]}
        assert self.names("Part") == {"a.embed": [3]}

    def test_names_inside_get_the_prefix_too(self) -> None:
        listing = Listing(self.CLASSES, self.FACTS)
        assert [(n, base + listing.named(kept)) for n, (kept,), base in listing.entries("Head", "ties")] == [
            ("model.embed", "model.last")
        ]

    def test_a_counter_is_unknown_outside_of_its_loop(self) -> None:
        classes = {"Odd": {"names": [{"for": "i", "to": "layers", "do": [["a.{i}", 1]]}, ["b.{i}", 1]]}}
        with pytest.raises(UNDECIDED):
            list(Listing(classes, self.FACTS).entries("Odd", "names"))

    def test_a_config_that_asks_for_too_much_is_unknown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert expand.MAX_ENTRIES <= 1 << 20
        monkeypatch.setattr(expand, "MAX_ENTRIES", 1 << 10)
        listing = Listing(self.CLASSES, self.FACTS | {"layers": 10**9})
        with pytest.raises(UNDECIDED):
            list(listing.entries("Base", "names"))


class TestLookup:
    def test_a_llama(self) -> None:
        found = looked_up(LLAMA)
        assert found is not None
        assert found.expectation.origin.startswith("LlamaForCausalLM (transformers 5.")
        assert found.expectation.shapes["model.layers.1.self_attn.k_proj.weight"] == (8, 16)
        assert found.hub.shapes == found.expectation.shapes
        assert found.hub.layout == "hub"
        assert found.conversions == ()

    @pytest.mark.parametrize(
        "change",
        [
            {"model_type": "lllama"},
            {"model_type": ["llama"]},
            {"model_type": "../entries/llama"},
            {"model_type": "_common"},
            {"model_type": "x" * 5000},
            {"architectures": ["LlamaForEverything"]},
            {"architectures": []},
            {"architectures": None},
            {"architectures": "LlamaForCausalLM"},
            {"architectures": ["LlamaForCausalLM", "LlamaModel"]},
            {"quantization_config": {"quant_method": "fp8"}},
            {"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}},
            {"hidden_size": 16.0},
            {"hidden_size": 0},
            {"hidden_size": 1 << 40},
            {"hidden_size": None},
            {"num_attention_heads": 3},
            {"rope_scaling": {"rope_type": "unheard-of"}},
            {"a_key_of_tomorrow": True},
        ],
        ids=str,
    )
    def test_what_it_knows_nothing_of(self, change: dict[str, object]) -> None:
        assert looked_up(LLAMA | change) is None

    @pytest.mark.parametrize("config", [None, [], "llama", 1, {}])
    def test_what_is_no_config(self, config: object) -> None:
        assert looked_up(config) is None

    @given(
        key=st.text(min_size=1, max_size=12), value=st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    )
    def test_no_value_breaks_it(self, key: str, value: object) -> None:
        found = looked_up(LLAMA | {key: value})
        assert found is None or found.expectation.shapes

    def test_next_to_a_transformers_that_says_something_else_it_knows_nothing(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        config = LLAMA | {"model_type": "phi", "architectures": ["PhiForTokenClassification"], "pad_token_id": None}
        (tmp_path / "config.json").write_text(json.dumps(config))
        other = tmp_path / "other"
        other.mkdir()
        (other / "config.json").write_text(json.dumps(config | {"architectures": ["PhiForCausalLM"]}))
        assert differing(config) == ("4",)
        for number, known in (("5", True), ("4", False), ("", True)):
            monkeypatch.setattr(remembered, "major", lambda number=number: number)
            assert (sources.in_table(str(tmp_path)) is not None) == known
            assert sources.in_table(str(other)) is not None
        monkeypatch.setattr(asking, "find_spec", lambda _: None)
        monkeypatch.setattr(remembered, "major", lambda: "4")
        assert sources.in_table(str(tmp_path)) is not None

    @pytest.mark.parametrize(
        "config",
        [
            None,
            {},
            {"model_type": "llama"},
            LLAMA,
            *({"model_type": "phi", "architectures": classes} for classes in (None, [], "x", [1], [{}], ["PhiModel"])),
        ],
    )
    def test_most_are_the_same_in_all(self, config: object) -> None:
        assert differing(config) == ()

    def test_the_version_that_is_installed(self) -> None:
        assert remembered.major() == version("transformers").partition(".")[0]

    def test_neither_torch_nor_transformers_is_imported(self) -> None:
        code = (
            f"import sys; from zeroconsolidate.naming.table.lookup import looked_up; assert looked_up({LLAMA!r});"
            "print(*sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == ""

    @pytest.mark.parametrize("path", sorted(path.name for path in Path(ENTRIES).glob("[!_]*.json")))
    def test_every_entry_is_sound(self, path: str) -> None:
        """Each class has names, every expression is one, whatever it uses is there."""
        with open(f"{ENTRIES}/{path}", encoding="utf-8") as file:
            entry = json.load(file)
        assert path == f"{entry['model_type']}.json"
        assert all(version.replace(".", "").isdigit() for version in entry["transformers"])
        for variant in entry["variants"]:
            for fields in (variant["fields"], *(f for f in variant["fields"].values() if isinstance(f, dict))):
                assert all(isinstance(fields[f], list) for f in fields.values() if isinstance(f, str))
            for condition in (*variant["requires"], *variant["derived"].values()):
                assert names_in(condition)
            for listings in variant["classes"].values():
                assert listings["names"]


def in_the_table() -> list[ModelCase]:
    """Real runs of models that the table has."""
    cases = model_cases(adapter=False)
    types = {case.name: json.loads((case.checkpoint / "config.json").read_text())["model_type"] for case in cases}
    return [case for case in cases if Path(ENTRIES, f"{types[case.name]}.json").exists()]


class TestConfirming:
    @pytest.mark.parametrize("case", in_the_table(), ids=lambda case: case.name)
    def test_real_runs_without_transformers(self, alone: None, case: Any, tmp_path: Path) -> None:
        report = consolidate(case.checkpoint, tmp_path / "out", dtype="bf16")
        assert "built-in table" in report.names
        assert report.warnings == ()

    @pytest.mark.parametrize(
        ("case", "change"),
        [
            ("llm_untied_z2", {"intermediate_size": 41}),
            ("llm_untied_z2", {"vocab_size": 287}),
            ("llm_untied_z2", {"num_hidden_layers": 1}),
            ("llm_untied_z2", {"num_hidden_layers": 3}),
            ("llm_untied_z2", {"attention_bias": True}),
            ("llm_untied_z2", {"tie_word_embeddings": True}),
            ("llm_untied_z2", {"architectures": ["LlamaModel"]}),
            ("llm_untied_z2", {"architectures": ["LlamaForSequenceClassification"]}),
            ("llm_untied_z2", {"a_key_of_tomorrow": True}),
            ("llm_tied_z2", {"num_hidden_layers": 3, "layer_types": None}),
        ],
        ids=str,
    )
    def test_what_does_not_fit_is_left_to_transformers(
        self, case: str, change: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A shape, a name too many, a name too few, a tie, a key: each alone."""
        asked: list[bytes] = []

        def ask(config: bytes) -> tuple[None, str]:
            asked.append(config)
            return None, "nobody is there"

        monkeypatch.setattr(asking, "ask", ask)
        checkpoint = tmp_path / "in"
        shutil.copytree(next(c for c in model_cases(adapter=False) if c.name == case).checkpoint, checkpoint)
        # What is written is held against the table once more: that it asks then would hide who has not asked before.
        monkeypatch.setattr(gate_model, "architecture", lambda *_, **__: (None, "not asked here"))
        dry_run(checkpoint, tmp_path / "exact", cache=False)
        assert asked == []
        config = json.loads((checkpoint / "config.json").read_text())
        assert config | change != config
        (checkpoint / "config.json").write_text(json.dumps(config | change))
        with suppress(ZeroConsolidateError):
            dry_run(checkpoint, tmp_path / "other", cache=False)
        assert len({*asked}) == 1

    def test_experts_get_the_hubs_layout(self, alone: None, tmp_path: Path) -> None:
        report = consolidate(ROOT / "mixtral_z3/checkpoint", tmp_path / "out")
        assert report.names.endswith("tensors converted to the hub's layout")
