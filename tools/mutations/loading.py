"""What puts a checkpoint into live objects, and optimizer states beside a model: nothing is lost or goes elsewhere."""

from __future__ import annotations

from .mutation import Mutation

WRITTEN = "outputs/test_optimizer.py"
TORCH = "loading/test_torch_optimizer.py"
LIVE = "live/test_loading.py::test_what_load_into_engine_promises"
INTO, OPEN, DROP_IN = "loading/test_into.py", "mapping/test_mapping.py", "whole/test_drop_in.py"
OPTIMIZER, STATES = "outputs/optimizer.py", "plan/states.py"
LOADED, ENGINE = "loading/torch_optimizer.py", "loading/engine.py"
LIVE_ENGINE, LIVE_OPTIMIZERS = "integrations/live_engine.py", "integrations/live_optimizers.py"

MUTATIONS = (
    Mutation(
        "an optimizer with states that cannot be placed is refused",
        "plan/test_states.py::test_states_of_which_some_would_be_lost",
        (STATES, "    if lost:\n", "    if False:\n"),
    ),
    Mutation(
        "an optimizer with values that are not understood is refused",
        "plan/test_states.py::test_states_with_a_value_that_is_not_understood",
        (STATES, "    if training is not None and training.unread:\n", "    if False:\n"),
    ),
    Mutation(
        "a flat group is in a param group",
        "plan/test_states.py::test_which_param_group_a_parameter_is_in",
        (STATES, "        if group.members and group.index not in group_of:\n", "        if False:\n"),
    ),
    Mutation(
        "one value for a whole flat group is not lost",
        "catalog/test_training.py::test_one_value_for_a_whole_flat_group_is_named",
        ("catalog/training.py", "and not value.shape and key != \"step\"", "and False"),
    ),
    Mutation(
        "objects of classes are not client state",
        "catalog/test_resuming.py::test_what_is_an_object_of_some_class_is_named_and_not_passed_on",
        ("catalog/nested.py", "tuple(items)\n        return self._other(value)\n", "tuple(items)\n        return value\n"),
    ),
    Mutation(
        "client state that contains itself has an end",
        "catalog/test_nested.py::test_a_list_that_contains_itself",
        ("catalog/nested.py", " or id(value) in self._open:\n", ":\n"),
    ),
    Mutation(
        "client state is not gone into at any depth",
        "catalog/test_nested.py::test_a_thousand_lists_in_each_other",
        ("catalog/nested.py", "if depth > MAX_DEPTH or ", "if "),
    ),
    Mutation(
        "optimizer states are not written of merged adapters",
        f"{WRITTEN}::test_adapters",
        (OPTIMIZER, 'if options.optimizer and options.lora == "merge":', "if False:"),
    ),
    Mutation(
        "lost optimizer states are not made up",
        f"{WRITTEN}::test_lost_states_are_not_rescued",
        (OPTIMIZER, "    if opened.report is not None:\n", "    if False:\n"),
    ),
    Mutation(
        "optimizer states of another model do not stay",
        f"{WRITTEN}::test_states_of_another_model_do_not_stay",
        ("write/publish.py", "        _remove_optimizer(output, sizes)\n", "        pass\n"),
    ),
    Mutation(
        "optimizer states are verified against the checkpoint",
        f"{WRITTEN}::test_verify_sees_a_changed_state",
        ("audit/verify.py", "[os.path.dirname(file.name) for file in plan.all_files]", "[os.path.dirname(file.name) for file in plan.files]"),
    ),
    Mutation(
        "a parameter without state is an error",
        f"{TORCH}::test_what_does_not_fit_by_name",
        (LOADED, "    if strict and (missing or unexpected):\n", "    if False:\n"),
    ),
    Mutation(
        "a state has the shape of its parameter",
        f"{TORCH}::test_what_does_not_fit_by_name",
        (LOADED, "        if source.shape != shape:\n", "        if False:\n"),
    ),
    Mutation(
        "a param group does not get the settings of one half of it",
        f"{TORCH}::test_a_group_of_parameters_with_different_settings_is_refused",
        (LOADED, "        if apart:\n", "        if False:\n"),
    ),
    Mutation(
        "an optimizer does not get the states of another kind",
        f"{TORCH}::test_another_optimizer_than_the_runs",
        (LOADED, "    if lacking and optimizer is not None:\n", "    if False:\n"),
    ),
    Mutation(
        "an optimizer is of the model that it is given with",
        f"{TORCH}::test_an_optimizer_of_another_model",
        (LOADED, "        if strangers:\n", "        if False:\n"),
    ),
    Mutation(
        "states come in the optimizer's order",
        f"{TORCH}::test_parameters_in_another_order_than_the_models",
        (LOADED, 'members = [name_of[id(parameter)] for parameter in group["params"]]', 'members = sorted(name_of[id(parameter)] for parameter in group["params"])'),
    ),
    Mutation(
        "states without settings are not taken",
        f"{TORCH}::test_settings_that_were_changed",
        ("loading/written_state.py", "        if name not in states:\n", "        if False:\n"),
    ),
    Mutation(
        "no rank goes on where another has failed",
        LIVE,
        (LIVE_ENGINE, "            if error is not None:\n", "            if False:\n"),
    ),
    Mutation(
        "all ranks load one checkpoint",
        LIVE,
        (LIVE_ENGINE, "            if others != every[0][1]:\n", "            if False:\n"),
    ),
    Mutation(
        "names are compared before an engine is changed",
        LIVE,
        (ENGINE, "    if strict and (missing or unexpected):\n", "    if False:\n"),
    ),
    Mutation(
        "in a round robin, parameters are where the optimizer has them",
        LIVE,
        (LIVE_OPTIMIZERS, "wrapper.bf16_groups if is_bf16 else wrapper.round_robin_bit16_groups", "wrapper.bf16_groups if is_bf16 else wrapper.bit16_groups"),
    ),
    Mutation(
        "parameters that compute follow their masters",
        LIVE,
        (ENGINE, "    live.refresh()\n", "    pass\n"),
    ),
    Mutation(
        "the optimizer counts on from the step of the checkpoint",
        LIVE,
        (ENGINE, "            live.optimizer.set_step(master, step)\n", "            pass\n"),
    ),
    Mutation(
        "names that only one side has are an error",
        f"{INTO}::TestNames::test_missing_and_unexpected",
        ("loading/match.py", "    if strict and (found.missing or found.unexpected):\n", "    if False:\n"),
    ),
    Mutation(
        "other shapes are an error, whatever is forgiven",
        f"{INTO}::TestNames::test_shapes_are_never_forgiven",
        ("loading/match.py", "    if found.mismatched:\n", "    if strict and found.mismatched:\n"),
    ),
    Mutation(
        "nothing is left on the meta device",
        f"{INTO}::TestMeta::test_what_would_be_left_is_an_error",
        ("loading/into.py", "    if left:\n", "    if False:\n"),
    ),
    Mutation(
        "a module that ties two tensors is refused",
        f"{INTO}::TestNames::test_ties_of_one_side",
        ("loading/into.py", "        if differs:\n", "        if False:\n"),
    ),
    Mutation(
        "parameters that DeepSpeed holds are refused",
        f"{INTO}::TestWrapped::test_partitioned_by_zero",
        ("loading/target.py", 'if hasattr(tensor, "ds_id"):', "if False:"),
    ),
    Mutation(
        "of an incomplete checkpoint only whole tensors are served",
        f"{OPEN}::TestIncomplete::test_what_is_whole_is_served",
        ("mapping/open.py", " if not gaps(source.recipe)}", "}"),
    ),
    Mutation(
        "a tensor of several has no optimizer state",
        f"{OPEN}::TestNames::test_a_tensor_of_several_has_no_state",
        ("mapping/checkpoint.py", "if stored is None or stored.recipe is not source.recipe:", "if False:"),
    ),
    Mutation(
        "a module without a name in common is an error",
        f"{DROP_IN}::test_scenarios",
        ("zero_to_fp32.py", "    if not report.loaded:\n", "    if False:\n"),
    ),
    Mutation(
        "the checksums in a file of torch are those of its tensors",
        f"{DROP_IN}::test_files_of_torch",
        ("outputs/state_dict_files.py", "checksums.append(data.value)", "checksums.append(0)"),
    ),
    Mutation(
        "a file that could not be written is gone",
        f"{DROP_IN}::TestWriting::test_what_fails_leaves_nothing",
        ("outputs/state_dict_files.py", "                remove(aside)\n", "                pass\n"),
    ),
)  # fmt: skip
