"""Universal checkpoints of models that are spread over ranks: each part, each expert, each state in its place."""

from __future__ import annotations

from .mutation import Mutation

TESTS = "outputs/test_universal_layouts.py"
FRAGMENTS, REFUSALS, STATES = "outputs/universal/fragments.py", "outputs/universal/refusals.py", "plan/states.py"
EXPERTS, PARTS = "catalog/experts.py", "catalog/parts.py"
AS_THEIRS = f"{TESTS}::test_all_that_is_in_a_fragment_is_what_deepspeeds_converter_writes"

MUTATIONS = (
    Mutation(
        "a tensor is cut along the dimension along which it was joined",
        AS_THEIRS,
        (FRAGMENTS, '{"cat_dim": rule.dim, **', '{"cat_dim": 0, **'),
    ),
    Mutation(
        "what every rank has is not cut",
        AS_THEIRS,
        (FRAGMENTS, "    return around\n", '    return {"cat_dim": 0, **around}\n'),
    ),
    Mutation(
        "equal sub-parameters are cut each for itself",
        AS_THEIRS,
        (FRAGMENTS, '{"param_n_sub_params": len(rule.widths)} if rule.widths else {}', "{}"),
    ),
    Mutation(
        "sub-parameters have the sizes that are recorded",
        AS_THEIRS,
        ("catalog/tensor_parallel.py", "return Concatenated(dim, widths, None if same_dims else shape, declared)",
         "return Concatenated(dim, widths, None if same_dims else shape, None)"),
    ),
    Mutation(
        "a vocabulary is padded again",
        AS_THEIRS,
        (FRAGMENTS, '{} if join.rows is None else {"vocab_tensor": True}', "{}"),
    ),
    Mutation(
        "experts are marked, so that a rank takes its own",
        f"{TESTS}::test_experts_of_one_name_are_stacked_for_the_loader_to_cut",
        (FRAGMENTS, "is_spread = is_native(folder.held[0]) and ranks == most", "is_spread = False"),
    ),
    Mutation(
        "AutoEP's stacks are marked",
        AS_THEIRS,
        (EXPERTS, "stacks_experts=True", "stacks_experts=False"),
    ),
    Mutation(
        "experts that every rank has are not",
        f"{TESTS}::test_experts_that_are_not_spread_are_as_any_parameter_beside_others_that_are",
        (FRAGMENTS, "is_native(folder.held[0]) and ranks == most", "is_native(folder.held[0])"),
    ),
    Mutation(
        "experts that the loader would cut wrongly are refused",
        f"{TESTS}::test_experts_of_several_degrees_are_refused",
        (FRAGMENTS, "    if 1 < ranks < most:\n", "    if False:\n"),
    ),
    Mutation(
        "experts are spread evenly",
        "catalog/test_experts.py::test_local_names_are_those_of_the_first_rank",
        (EXPERTS, "if by_rank != [list(range(", "if False and by_rank != [list(range("),
    ),
    Mutation(
        "a stack of experts is a whole number of them",
        "catalog/test_experts.py::test_experts_that_do_not_divide",
        (EXPERTS, "if ranks * numel != tensor.numel or not", "if not"),
    ),
    Mutation(
        "states that must be equal are compared",
        f"{TESTS}::test_states_of_ranks_that_should_be_equal_are_compared",
        ("outputs/universal/output.py", "[*replicas(catalog), *state_replicas(catalog)]", "[*replicas(catalog)]"),
    ),
    Mutation(
        "steps of stages are compared",
        f"{TESTS}::test_a_step_in_which_stages_differ",
        (STATES, "        if plain_step(known) != plain_step(step):\n", "        if False:\n"),
    ),
    Mutation(
        "settings of model-parallel ranks are compared, of which there is one place",
        f"{TESTS}::test_settings_in_which_model_parallel_ranks_differ",
        (REFUSALS, "    if training.differs:\n", "    if False:\n"),
    ),
    Mutation(
        "a tied layer whose name is lost is refused",
        f"{TESTS}::test_what_cannot_be_written_is_refused_by_name",
        (REFUSALS, "    if shared and origin.degrees.pp > 1:\n", "    if False:\n"),
    ),
    Mutation(
        "a master's states are by the optimizer's numbers",
        f"{TESTS}::test_values_are_those_of_the_live_engine",
        ("catalog/whole_optimizer.py", "in zip(numbers or (), group, strict=True)",
         "in zip([0] * len(group), group, strict=True)"),
    ),
    Mutation(
        "the states of a flat master are cut where it is",
        f"{TESTS}::test_values_are_those_of_the_live_engine",
        ("opening/unnamed.py", "contiguous(value.storage, shape, value.offset + offset)",
         "contiguous(value.storage, shape, value.offset)"),
    ),
    Mutation(
        "numbers that do not fit the masters say nothing",
        "catalog/test_catalog.py::test_numbers_that_do_not_fit_the_masters",
        ("catalog/whole_optimizer.py", "    if counts != [len(group) for group in groups]:\n", "    if False:\n"),
    ),
    Mutation(
        "a swap file holds what it should",
        f"{TESTS}::test_a_moment_that_is_not_beside_its_master_on_nvme",
        ("catalog/swapped.py", "if own is not None and _holds(own, numel)", "if own is not None"),
    ),
    Mutation(
        "all stages say which parameters there are",
        f"{TESTS}::test_it_converts_to_the_same_model",
        (PARTS, "for file in files for name, shape in file.shapes.items()}", "for name, shape in base.shapes.items()}"),
    ),
)  # fmt: skip
