"""Every tensor gets the name that is expected, from the one tensor that has it; what nobody can decide is refused."""

from __future__ import annotations

from .mutation import Mutation

SHARED = "naming/test_shared.py"
UNSAVED = "opening/test_unsaved.py"
WRAPPED = "adapters/test_wrapped_names.py"
CATALOG = "catalog/test_catalog.py"

MUTATIONS = (
    Mutation(
        "a tensor is written under those of its names that are expected",
        f"{SHARED}::test_the_wrapper_names_the_embedding_first",
        (
            "naming/fit.py",
            "    named = {name: sources[owner] for name, owner in chosen.items()}\n",
            "    named = dict(selection.named)\n",
        ),
    ),
    Mutation(
        "two models of the same names are not chosen from",
        f"{SHARED}::test_two_trained_encoders_are_not_told_apart",
        ("naming/expectation.py", "    if naming.rivals:\n", "    if False:\n"),
    ),
    Mutation(
        "names that differ within a save are brought together",
        "catalog/test_plain.py::test_the_state_dict_s_names_are_the_names",
        ("catalog/parts.py", "    contents = with_module_names(contents)\n", ""),
    ),
    Mutation(
        "not where the state dict has two of them",
        "catalog/test_plain.py::test_where_the_state_dict_has_two_such_names_nothing_is_brought_together",
        ("catalog/plain.py", "    if len(own) < len(module):\n", "    if False:\n"),
    ),
    Mutation(
        "wrappers are undone in the names of adapters",
        f"{WRAPPED}::test_the_adapter",
        ("adapters/wrapping.py", "    plain = plain_names(names)\n", "    plain = {name: name for name in names}\n"),
    ),
    Mutation(
        "modules called module are undone where the base tells, and refused where nothing does",
        f"{WRAPPED}::test_nothing_tells_whether_a_module_called_module_is_the_model_s",
        ("outputs/adapted.py", "        refuse_modules(adapters.parts.values())\n", "        pass\n"),
    ),
    Mutation(
        "parameters without values are refused",
        f"{UNSAVED}::test_without_it_they_are_missed",
        (
            "outputs/planned.py",
            "        lacking = _unsaved(catalog.unsaved, additions, options)\n",
            "        lacking = None\n",
        ),
    ),
    Mutation(
        "an adapter of which a part has no values is refused",
        f"{UNSAVED}::test_half_an_adapter_is_none",
        ("outputs/adapted.py", "        _refuse_unsaved_adapter(adapters, opened.catalog.unsaved)\n", "        pass\n"),
    ),
    Mutation(
        "the base that supplies values is the model that was trained",
        f"{UNSAVED}::test_another_model_is_no_base",
        ("naming/base.py", "shape not in ((-1,), there.shape)", "False"),
    ),
    Mutation(
        "whole numbers without their scale are no values",
        f"{CATALOG}::test_whole_numbers_without_their_scale_are_not_saved",
        ("catalog/names.py", "(was_floating or (is_asked and fragment.dtype.itemsize == 1))", "False"),
    ),
    Mutation(
        "what continues the name of a tensor is no parameter",
        f"{CATALOG}::test_what_continues_the_name_of_a_tensor_is_no_parameter",
        ("catalog/names.py", " and not _is_companion(name, module)", ""),
    ),
    Mutation(
        "models of accelerate are not chosen from, though `latest` names one",
        "whole/test_reported_more.py::test_two_models_of_one_accelerate_run",
        ("archive/discover.py", "    refuse_several_models(tags)\n", ""),
    ),
    Mutation(
        "parameters without values are supplied for the class itself, not for a relative of it",
        f"{UNSAVED}::test_a_part_of_it_that_has_none_is_missed",
        (
            "outputs/planned.py",
            "    if lacking is not None and not (named.complete and named.is_exact):\n",
            "    if lacking is not None and not named.complete:\n",
        ),
    ),
    Mutation(
        "or missed",
        UNSAVED,
        (
            "outputs/planned.py",
            "    if lacking is not None and not (named.complete and named.is_exact):\n",
            "    if False:\n",
        ),
    ),
    Mutation(
        "only parts of the base are left out for a class that has fewer",
        "naming/test_decision.py::test_parts_of_the_base_that_were_not_trained_are_left_out",
        (
            "naming/base.py",
            "    dropped = {name: new for name in supplied if",
            "    dropped = {name: new for name in naming.mapping if",
        ),
    ),
    Mutation(
        "the masked head of a base is not taken for a pooler",
        "naming/test_decision.py::test_what_is_in_the_place_of_a_pooler_is_no_pooler",
        ("naming/decision.py", "    return inside != {False}\n", "    return True\n"),
    ),
    Mutation(
        "a head is not taken for the embedding that was left out",
        "naming/test_names.py::test_a_head_whose_tied_embedding_was_left_out",
        ("naming/check.py", "    if alone and not insisted:\n", "    if False:\n"),
    ),
)
