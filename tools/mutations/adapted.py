"""Adapters: their base, their rows, their kinds, and what lies beside them."""

from __future__ import annotations

from .mutation import Mutation

BASE = "adapters/test_base_agreement.py"
BESIDE = "adapters/test_beside.py::TestSeveralModels"

MUTATIONS = (
    Mutation(
        "another base is refused",
        f"{BASE}::TestConversion::test_insisted",
        ("adapters/base.py", "    if found.contradictions and not insisted:\n", "    if False:\n"),
    ),
    Mutation(
        "rows that are lost are not made up",
        "adapters/test_vocabulary.py::test_one_trained",
        ("adapters/vocabulary.py", "    if len(counts) > 1 and is_resized:\n", "    if False:\n"),
    ),
    Mutation(
        "of a vocabulary that grew, the base's rows are the base's",
        "adapters/test_vocabulary.py::test_frozen_rows_in_the_save",
        (
            "adapters/bases.py",
            "                return self._of_both(path, found.source, own)\n",
            "                pass\n",
        ),
    ),
    Mutation(
        "and they are compared with the run's, at both ends",
        "adapters/test_vocabulary.py::test_rows_of_another_base",
        ("adapters/bases.py", "        self.unproven[path] = (original.recipe, own.recipe)\n", "        pass\n"),
    ),
    Mutation(
        "a classifier with more labels is another one",
        "adapters/test_merge.py::test_rows_that_the_run_added_come_from_its_frozen_copies",
        ("adapters/bases.py", "            and (original.shape[0], own.shape[0]) in self._vocabularies\n", ""),
    ),
    Mutation(
        "tensors of several dtypes are not copied as they are",
        "plan/test_plan.py::test_runs_of_rows_are_laid_end_to_end",
        ("plan/pieces.py", "recipe.is_plain and recipe.dtype is dtype for recipe", "recipe.is_plain for recipe"),
    ),
    Mutation(
        "config.json follows the rows",
        "adapters/test_vocabulary.py::test_both_trained",
        ("outputs/side_files.py", "text = with_vocabulary(text, planned.adapted.rows)\n", "pass\n"),
    ),
    Mutation(
        "a configuration without its adapter is refused",
        "adapters/test_kinds.py::test_a_configuration_of_another_run",
        ("adapters/find.py", "        _refuse_unknown(first.peft_type, present)\n", "        pass\n"),
    ),
    Mutation(
        "one of two PEFT models is not written over the other",
        f"{BESIDE}::test_two_are_refused",
        ("adapters/wrapping.py", "    if len(models) > 1:\n", "    if False:\n"),
    ),
    Mutation(
        "nor where each has prompts",
        f"{BESIDE}::test_two_with_prompts_are_refused",
        ("adapters/prompts.py", 'for text in named)) or [""]\n', 'for text in named[:1])) or [""]\n'),
    ),
    Mutation(
        "what is added to a tied head is not added to an embedding that was saved whole",
        "adapters/test_merge.py::test_what_is_added_to_the_head_is_not_added_to_an_embedding_that_was_saved_whole",
        (
            "adapters/bases.py",
            "        if path in self._model.saved or owner not in self._model.saved:\n",
            "        if True:\n",
        ),
    ),
    Mutation(
        "a right merge of both names of a tied weight is not called wrong",
        "outputs/test_recomputed.py::test_two_names_of_a_tied_weight",
        ("outputs/recomputed/recompute.py", "bool(chosen) and module not in held.shared", "bool(chosen)"),
    ),
    Mutation(
        "nor one of two tensors",
        f"{BESIDE}::test_two_tensors_of_one_name",
        ("adapters/beside.py", "    if known.name != source.name:\n", "    if False:\n"),
    ),
    Mutation(
        "diffusers finds its weights",
        "outputs/test_diffusers.py::test_one_file",
        ("outputs/planned.py", "        name=_file_name(catalog.origin.root, options.base_directory),\n", ""),
    ),
    Mutation(
        "trained tokens are in the file, whoever names the embedding first",
        "adapters/test_export.py::test_trained_tokens_of_an_embedding_that_the_wrapper_names_first",
        (
            "adapters/wrapping.py",
            "    found = {alias: first.get(name, name) for alias, name in ties.items()} | first\n",
            "    found = dict(ties)\n",
        ),
    ),
    Mutation(
        "and missed where they are not",
        "outputs/test_gate.py::TestAdapter::test_tokens_that_were_trained_and_are_not_there",
        ("outputs/gate/adapter.py", "        *_tokens(shapes, config),\n", ""),
    ),
    Mutation(
        "what was trained stands in the place of the base's own, whichever of its names the run stores",
        "adapters/test_merge.py::test_what_is_not_the_base_s_stands_in_the_place_of_the_base_s_own",
        (
            "adapters/merged_names.py",
            "(not made[path][0].is_original, not bases.is_in_files(path))",
            "not made[path][0].is_original",
        ),
    ),
    Mutation(
        "of a tied model, trained tokens are the input embedding's",
        "adapters/test_export.py::test_trained_tokens_of_a_head_that_comes_before_its_embedding",
        ("adapters/export.py", "(part for part in several if not part.module.endswith(OUTPUT_EMBEDDINGS))", "iter(())"),
    ),
    Mutation(
        "a square Conv1D is not taken for a Linear because PEFT's flag is of another module",
        "adapters/test_merge.py::test_a_square_weight_lies_as_its_siblings_do",
        (
            "adapters/additions.py",
            "    turned = of_conv1d or config.fan_in_fan_out\n",
            "    turned = config.fan_in_fan_out\n",
        ),
    ),
)
