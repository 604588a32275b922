"""What keeps the built-in table from confirming names that are not those of the class: it knows exactly, or nothing."""

from __future__ import annotations

from .mutation import Mutation

TABLE = "naming/test_table.py"
UNFIT = f"{TABLE}::TestConfirming::test_what_does_not_fit_is_left_to_transformers"
FACTS = f"{TABLE}::TestFacts"
LISTINGS = f"{TABLE}::TestListings"

MUTATIONS = (
    Mutation(
        "shapes are compared with the table's",
        UNFIT,
        (
            "naming/expectation.py",
            "mismatched=tuple(name for name, shape in given.items() if not agree(shape, expected.get(name)))",
            "mismatched=()",
        ),
    ),
    Mutation(
        "a name that the table has more keeps it from confirming",
        UNFIT,
        (
            "naming/expectation.py",
            "missing=tuple(name for name in expected if tied.get(name, {name}).isdisjoint(given))",
            "missing=()",
        ),
    ),
    Mutation(
        "a name that the table has not keeps it from confirming",
        UNFIT,
        ("naming/expectation.py", "unexpected=tuple(dict.fromkeys(unplaced))", "unexpected=()"),
    ),
    Mutation(
        "a tie that the checkpoint has not keeps the table from confirming",
        UNFIT,
        ("naming/table/lookup.py", 'ties = dict(_ties(listing, name, "ties"))', "ties = {}"),
    ),
    Mutation(
        "the table confirms what fits, and else nothing",
        UNFIT,
        (
            "naming/fit.py",
            "return named if naming.fits and judged.fits and not named.warnings and not named.from_base else None",
            "return named",
        ),
        (
            "naming/fit.py",
            "    except ZeroConsolidateError:\n        return None\n    if naming",
            "    except ZeroDivisionError:\n        return None\n    if naming",
        ),
    ),
    Mutation(
        "a config with a key that the table was not proven with is unknown to it",
        f"{FACTS}::test_anything_unknown_is_unknown {UNFIT}",
        (
            "naming/table/facts.py",
            "elif key not in harmless or not accepts(harmless[key], value, kinds):",
            "elif False:",
        ),
    ),
    Mutation(
        "so is a value that it was not proven with",
        f"{FACTS}::test_anything_unknown_is_unknown",
        (
            "naming/table/facts.py",
            "            if not accepts(declared[0], value, kinds):\n",
            "            if False:\n",
        ),
    ),
    Mutation(
        "and values that were never built together",
        f"{FACTS}::test_anything_unknown_is_unknown",
        (
            "naming/table/facts.py",
            'return found if all(evaluate(condition, found) for condition in variant["requires"]) else None',
            "return found",
        ),
    ),
    Mutation(
        "and a field that the config leaves out and that has no default",
        f"{FACTS}::test_so_is_a_config_inside_that_is_left_out",
        (
            "naming/table/facts.py",
            "        if isinstance(declared, dict):\n            return False\n        if len",
            "        if isinstance(declared, dict):\n            continue\n        if len",
        ),
    ),
    Mutation(
        "and labels that the config counts in two ways",
        f"{FACTS}::test_anything_unknown_is_unknown",
        (
            "naming/table/facts.py",
            "return len(labels) if labels and number in (None, len(labels)) else None",
            "return len(labels)",
        ),
    ),
    Mutation(
        "true is no number to the table, and 1 is not true",
        f"{TABLE}::TestKinds::test_values",
        (
            "naming/table/kinds.py",
            "return any(type(value) is type(one) and value == one for one in rest)",
            "return value in rest",
        ),
    ),
    Mutation(
        "a config of two classes is unknown to the table",
        f"{TABLE}::TestLookup::test_what_it_knows_nothing_of",
        ("naming/table/lookup.py", " or len(classes) != 1:", ":"),
    ),
    Mutation(
        "a model type is no path",
        f"{TABLE}::TestLookup::test_what_it_knows_nothing_of",
        ("naming/table/lookup.py", "or not _MODEL_TYPE.fullmatch(model_type)", ""),
    ),
    Mutation(
        "what is there under a condition is not there without it",
        f"{LISTINGS}",
        ("naming/table/expand.py", 'elif "if" in node and not self.value(node["if"]):', "elif False:"),
    ),
    Mutation(
        "the base's files are exactly those that the table has",
        "adapters/test_base_in_table.py::test_a_base_that_is_not_exactly_so",
        (
            "outputs/adapted.py",
            "return known.architecture if is_exactly(known.architecture, shapes) else None",
            "return known.architecture",
        ),
    ),
    Mutation(
        "the table is not used next to a transformers that says something else",
        f"{TABLE}::TestLookup::test_next_to_a_transformers_that_says_something_else_it_knows_nothing",
        ("naming/sources.py", "return None if major() in others else found", "return found"),
    ),
)
