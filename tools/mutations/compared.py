"""`compare` counts what differs, and points at faults; pages of results run nothing that is in them."""

from __future__ import annotations

from .mutation import Mutation

BLOCKS = "run/test_statistics.py::test_blocks_make_no_difference"
TORCH = "run/test_statistics.py::test_against_torch"
FAULTS = "audit/test_compare.py::TestFaults"
REPORTED = "audit/test_compare.py::TestReported"
NAMES = "audit/test_compare.py::TestNames"
ADAPTERS = "audit/test_compare.py::TestAdapters"

MUTATIONS = (
    Mutation(
        "NaN equals NaN only",
        TORCH,
        ("run/statistics.py", "        changed &= ~both_nan\n", ""),
    ),
    Mutation(
        "pairs that are not finite are counted",
        TORCH,
        ("run/statistics.py", "        found.unlike += int(np.count_nonzero(odd & changed))\n", ""),
    ),
    Mutation(
        "whole numbers are compared by their bits",
        "run/test_statistics.py::test_whole_numbers_and_complex_ones",
        ("run/statistics.py", 'dtype_a.kind in ("integer", "bool")', "False"),
    ),
    Mutation(
        "rounding is told from other differences",
        "run/test_statistics.py::test_rounding_is_recognised",
        (
            "run/statistics.py",
            "    return bool(((made == there) | (np.isnan(made) & np.isnan(there))).all())\n",
            "    return True\n",
        ),
    ),
    Mutation(
        "rows are marked wherever a block begins",
        BLOCKS,
        (
            "run/statistics.py",
            "self._row_numel - start, 0)\n        self._differs",
            "self._row_numel, 0)\n        self._differs",
        ),
    ),
    Mutation(
        "infinite elements are beyond any tolerance",
        "audit/test_compare.py::TestTolerance::test_infinity_is_beyond_any",
        ("audit/compare.py", "    if found.unlike or (", "    if ("),
    ),
    Mutation(
        "tensors of one side only make a difference",
        f"{FAULTS}::test_missing_tensors",
        ("audit/comparison.py", "not (self.only_a or self.only_b or self.beyond)", "not self.beyond"),
        ("audit/compare.py", "pairing.change or pairing.only_a or pairing.only_b or shapes_differ", "shapes_differ"),
    ),
    Mutation(
        "names are matched after a change of prefix",
        f"{NAMES}::test_a_prefix",
        ("audit/pairing.py", "        names, change = _matched(a, b)\n", "        pass\n"),
    ),
    Mutation(
        "a tensor of the base is recognised",
        f"{REPORTED}::test_an_adapter_that_was_not_merged",
        ("audit/probes.py", "                if differs is None:\n", "                if False:\n"),
    ),
    Mutation(
        "exchanged tensors are recognised",
        f"{FAULTS}::test_exchanged_tensors",
        ("audit/probes.py", "                exchanged[each.name] = other\n", ""),
    ),
    Mutation(
        "scrambled rows are recognised",
        f"{FAULTS}::test_scrambled_rows",
        ("run/orders.py", '        return "rows"\n', "        return None\n"),
    ),
    Mutation(
        "head and embedding are compared where they are to be one",
        f"{FAULTS}::test_tied_weights_that_differ",
        (
            "audit/probes.py",
            "            return None if differs is None else (head, embedding)\n",
            "            return None\n",
        ),
    ),
    Mutation(
        "an adapter's tensors get the names that a run has for them",
        f"{ADAPTERS}::test_an_adapter_s_directory",
        ("audit/adapter_side.py", '"modules_to_save", _ADAPTER', '"modules_to_save"'),
    ),
    Mutation(
        "names are escaped in pages",
        "reports/test_html.py::TestHostileNames",
        ("reports/markup.py", "        return escaped(content)\n", "        return content\n"),
    ),
    Mutation(
        "attributes of pages are escaped",
        "reports/test_html.py::TestHostileNames::test_attributes_too",
        ("reports/markup.py", '="{escaped(str(value))}"', '="{value}"'),
    ),
    Mutation(
        "a browser may load nothing",
        "reports/test_html.py::TestEveryPage::test_nothing_is_loaded",
        ("reports/page.py", "default-src 'none'; ", ""),
    ),
    Mutation(
        "a page that cannot be written is refused before any work",
        "reports/test_html.py::TestFile::test_a_bad_place_is_refused_before_any_work",
        ("cli/command.py", "        refuse_unwritable(path)\n", ""),
    ),
)
