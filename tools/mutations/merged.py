"""What keeps a merge from being silently wrong: names, copies that are no base, heads, values recomputed."""

from __future__ import annotations

from .mutation import Mutation

WITNESS = "outputs/test_recomputed.py"
MERGE = "adapters/test_merge.py"
HEADS = "adapters/test_task_heads.py"

MUTATIONS = (
    Mutation(
        "the mean of merged models is computed a second time",
        "transforms/test_average.py::test_a_mean_with_other_weights_would_be_noticed",
        ("outputs/model.py", "        if opened.members and adapted.is_adapter:\n", "        if opened.members:\n"),
    ),
    Mutation(
        "merged values are recomputed",
        f"{WITNESS}::test_an_adapter_that_was_not_added {WITNESS}::test_trained_tokens_in_other_rows",
        (
            "outputs/make.py",
            "recomputed = output.recomputed(opened, stage.path)",
            "recomputed = Recomputed(checks=(), not_checked=())",
        ),
    ),
    Mutation(
        "all of what was added is held against all that should be, where rounding hides each element",
        f"{WITNESS}::TestContradiction::test_a_factor_that_no_element_shows",
        ("outputs/recomputed/formulas.py", "    if abs(ratio - 1) >", "    if False and abs(ratio - 1) >"),
    ),
    Mutation(
        "what PEFT merges is held against what it answers",
        f"{WITNESS}::test_factors_of_another_layer",
        ("outputs/recomputed/recompute.py", "        return _answered(merge, inputs)\n", "        return None\n"),
    ),
    Mutation(
        "an adapter's tensors are compared with the masters",
        f"{WITNESS}::TestAdapters::test_factors_of_another_layer",
        ("outputs/recomputed/exported.py", "            compare(chosen, inputs)\n", "            pass\n"),
    ),
    Mutation(
        "a trained tensor without a place is refused",
        f"{HEADS}::test_a_head_of_no_class",
        ("adapters/plan_merge.py", "if original is not None and result.unknown and not insisted:", "if False:"),
    ),
    Mutation(
        "labels are the rows of the head",
        f"{HEADS}::test_merged {HEADS}::test_labels_are_the_rows_of_the_head",
        ("adapters/task.py", "labels=next(iter(rows), None)", "labels=None"),
    ),
    Mutation(
        "a quantized copy is no base",
        f"{MERGE}::test_a_quantized_copy_gives_way_to_the_original",
        ("adapters/bases.py", "own is not None and self._is_quantized(path, own)", "False"),
    ),
    Mutation(
        "a tied tensor of the base is found by either name",
        f"{MERGE}::test_a_tied_base_has_one_of_the_names",
        (
            "adapters/bases.py",
            "            found = self._of_original(path)\n",
            "            found = self._original.find(path)\n",
        ),
    ),
    Mutation(
        "names that part are all written",
        f"{MERGE}::test_each_name_of_a_shared_embedding_is_written_once_they_part",
        ("adapters/merge.py", "copy_ties=copy_ties or bool(untied)", "copy_ties=copy_ties"),
    ),
    Mutation(
        "what may be either of two modules is refused",
        "naming/test_base_layout.py::test_what_may_be_either_of_two_modules_is_refused",
        ("naming/base_layout.py", "    if change.rival is not None:\n", "    if False:\n"),
    ),
)
