"""`compare` counts what differs, and points at faults; pages of results run nothing that is in them."""

from __future__ import annotations

from .mutation import Mutation

BLOCKS = "run/test_statistics.py::test_blocks_make_no_difference"
TORCH = "run/test_statistics.py::test_against_torch"
FAULTS = "audit/test_compare.py::TestFaults"
REPORTED = "audit/test_compare.py::TestReported"
NAMES = "audit/test_compare.py::TestNames"
ADAPTERS = "audit/test_compare.py::TestAdapters"
PRODUCTS = "transforms/test_dequantize.py"
QUANTIZED = "audit/test_compare_quantized.py"
LAYOUTS = "audit/test_compare_layouts.py"

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
        "a row has the scale of its own block",
        f"{PRODUCTS}::test_matrices_of_several_blocks",
        ("transforms/dequantizing.py", "scales[np.arange(first, last) // high - top]", "scales[:1]"),
    ),
    Mutation(
        "a number in a word is above its value",
        f"{QUANTIZED}::TestKnownFormats::test_the_weights_are_torchs_products",
        ("transforms/dequantizing.py", "        rows -= _ZERO\n", ""),
    ),
    Mutation(
        "scales are as many as the blocks",
        f"{QUANTIZED}::TestUnknownFormats::test_one_layer_that_is_not_understood",
        (
            "audit/quantized_side.py",
            "stated.block if scales.shape == (-(-rows // high), -(-columns // wide)) else None",
            "stated.block",
        ),
    ),
    Mutation(
        "numbers with zero points are not known",
        f"{QUANTIZED}::TestUnknownFormats::test_one_layer_that_is_not_understood",
        ("audit/quantized_side.py", ' or "weight_zero_point" in parts', ""),
    ),
    Mutation(
        "two numbers in a byte are not known",
        f"{QUANTIZED}::TestUnknownFormats::test_one_layer_that_is_not_understood",
        ("audit/quantized_side.py", "_NUMBERS[stated.method]", '_NUMBERS["compressed-tensors"]'),
    ),
    Mutation(
        "words hold as many numbers as the shape says",
        f"{QUANTIZED}::TestUnknownFormats::test_a_shape_that_the_words_have_no_room_for",
        ("audit/quantized_side.py", "    return (rows, columns) if fits else None\n", "    return rows, columns\n"),
    ),
    Mutation(
        "words of four bits are not known",
        f"{QUANTIZED}::TestUnknownFormats::test_four_bits",
        ("audit/quantized_side.py", "    if stated.bits != _BITS:\n", "    if False:\n"),
    ),
    Mutation(
        "numbers of an unknown format are not compared as weights",
        f"{QUANTIZED}::TestUnknownFormats::test_is_said_and_not_compared_with_weights",
        ("audit/pairing.py", " and (name in a.stored) is (here[name] in b.stored)", ""),
    ),
    Mutation(
        "numbers of an unknown format have no figures",
        f"{QUANTIZED}::TestUnknownFormats::test_with_its_like_only_whether_both_store_the_same",
        ("audit/measure.py", "    is_stored = name in a.stored\n", "    is_stored = False\n"),
    ),
    Mutation(
        "an output's checkpoint is not quantized to be compared with it",
        f"{QUANTIZED}::TestKnownFormats::test_a_checkpoint_and_its_output",
        ("audit/sides.py", "    options = replace(options, quantize=None, quantize_skip=())", "    pass"),
    ),
    Mutation(
        "what is quantized differs without having moved",
        f"{QUANTIZED}::TestKnownFormats::test_a_checkpoint_and_its_output",
        (
            "audit/suspicions.py",
            "        and each.name not in quantized  # these differ whether they moved or not\n",
            "",
        ),
    ),
    Mutation(
        "what quantizing does not explain is told",
        f"{QUANTIZED}::TestSuspicions::test_a_layer_of_another_model",
        ("audit/requantized.py", "            beyond.append(each.name)\n", "            within += 1\n"),
    ),
    Mutation(
        "equal names do not hide what a loader does not find",
        f"{REPORTED}::test_keys_that_peft_does_not_read {REPORTED}::test_only_what_the_optimizer_had",
        ("audit/compare.py", "    names_differ |= left.hides_names or right.hides_names\n", ""),
    ),
    Mutation(
        "stacks of experts are compared with lists of them",
        f"{LAYOUTS}::TestPaired::test_the_same_values_are_equal",
        ("audit/compare.py", "    if pairing.only_a and pairing.only_b:\n", "    if False:\n"),
    ),
    Mutation(
        "a stack of another shape is not cut into experts",
        f"{LAYOUTS}::TestFaults::test_a_stack_of_another_shape",
        (
            "audit/layouts.py",
            "    without = {name for name in held if held[name] != known.expectation.shapes.get(name)}\n",
            "    without = set[str]()\n",
        ),
    ),
    Mutation(
        "tensors of one conversion are turned together",
        f"{LAYOUTS}::test_tensors_that_belong_together_are_turned_together",
        ("audit/layouts.py", "            and without.isdisjoint(conversion.inputs)\n", ""),
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
        ("cli/actions.py", "        refuse_unwritable(path)\n", ""),
    ),
)
