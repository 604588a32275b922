"""Universal checkpoints: what would resume wrongly is not written, and is found by verify."""

from __future__ import annotations

from .mutation import Mutation

WRITTEN = "outputs/test_universal.py"
VERIFIED = "audit/test_verify_universal.py"
BESIDE = "outputs/test_resumed_files.py"
OUTPUT, REFUSALS, AUDIT = "outputs/universal/output.py", "outputs/universal/refusals.py", "audit/universal.py"
RESUMED = "outputs/universal/resumed_files.py"

RESCUED = "outputs/test_universal_rescue.py"

MUTATIONS = (
    Mutation(
        "a parameter whose name no folder can have is refused",
        f"{WRITTEN}::test_a_name_that_no_folder_can_have",
        (REFUSALS, "        if size_bytes > MOST_NAME_BYTES:\n", "        if False:\n"),
    ),
    Mutation(
        "lost moments are not masters, and masters are not moments",
        f"{RESCUED}::test_lost_elements_are_replaced_and_no_others",
        ("opening/rescue.py", "copies=catalog.module if is_master else {}", "copies=catalog.module"),
    ),
    Mutation(
        "a state is filled from that state of another save",
        f"{RESCUED}::test_lost_elements_are_replaced_and_no_others",
        (
            "opening/rescue.py",
            "filler.tensors if is_master else filler.states.get(state, {})",
            "filler.tensors",
        ),
    ),
    Mutation(
        "zeros stand in for moments only",
        f"{RESCUED}::test_masters_that_nothing_has_are_refused_by_name",
        ("opening/rescue.py", "            zeros=not is_master,\n", "            zeros=True,\n"),
    ),
    Mutation(
        "no parameter is left out of a rescued universal checkpoint",
        f"{RESCUED}::test_masters_that_nothing_has_are_refused_by_name",
        ("opening/substitutes.py", "    if lost:\n", "    if False:\n"),
    ),
    Mutation(
        "settings of an optimizer are not made up",
        f"{RESCUED}::test_what_no_rank_has_is_refused_by_name",
        ("opening/substitutes.py", "    if not has_optimizer(catalog):\n", "    if False:\n"),
    ),
    Mutation(
        "a lost rank's states have a place in the flat groups",
        f"{RESCUED}::test_lost_elements_are_replaced_and_no_others",
        ("opening/stand_ins.py", "for index, names in enumerate(kept)\n", "for index, names in enumerate(kept[:0])\n"),
    ),
    Mutation(
        "another rank's model file stands in for rank 0's",
        f"{RESCUED}::test_model_file_of_rank_0",
        (OUTPUT, "ranks.dp_rank == first[ranks.mp_rank]:", "ranks.dp_rank == 0:"),
    ),
    Mutation(
        "an attack in what is filled from is called that",
        f"{RESCUED}::test_an_attack_is_no_loss_wherever_it_is",
        (
            "opening/substitutes.py",
            '    except (UnsafePickle, UnsafePath, StoreFailed):\n        raise\n    except ZeroConsolidateError as error:\n        raise BadOption(f"the checkpoint',
            '    except ZeroConsolidateError as error:\n        raise BadOption(f"the checkpoint',
        ),
    ),
    Mutation(
        "zeros for moments are warned of",
        f"{RESCUED}::test_lost_elements_are_replaced_and_no_others",
        (OUTPUT, "*_warnings_of_zeros(opened.report)", ""),
    ),
    Mutation(
        "a state has its own storages, and not the masters'",
        f"{WRITTEN}::test_states_are_what_was_saved",
        ("plan/states.py", "    return replace(group, partitions=partitions)\n", "    return group\n"),
    ),
    Mutation(
        "every rank has the same states",
        "plan/test_states.py::test_a_state_that_not_every_rank_has",
        ("plan/states.py", "        if len(partitions) != len(group.partitions):\n", "        if False:\n"),
    ),
    Mutation(
        "a state that was swapped out is not taken for one that is there",
        "plan/test_states.py::test_a_state_that_was_swapped_out",
        ("plan/states.py", "            if own.numel < master.numel:\n", "            if False:\n"),
    ),
    Mutation(
        "a state in a layout of its own is refused",
        f"{WRITTEN}::test_a_layout_that_is_not_written_is_refused_by_name",
        (REFUSALS, "    if catalog.unplaced:\n", "    if False:\n"),
    ),
    Mutation(
        "no state is lost",
        f"{WRITTEN}::test_a_state_that_could_not_be_placed",
        (REFUSALS, "    if lost:\n", "    if False:\n"),
    ),
    Mutation(
        "nor a setting",
        f"{WRITTEN}::test_a_setting_that_is_not_plain",
        (REFUSALS, "    if training.unread:\n", "    if False:\n"),
    ),
    Mutation(
        "groups with settings of their own do not get the first one's",
        f"{WRITTEN}::test_settings_in_which_groups_differ_stay_as_the_program_sets_them_at_stage_3",
        ("outputs/universal/state.py", '[{**shared(listed), "params": []}]', '[{**listed[0], "params": []}]'),
    ),
    Mutation(
        "a model file is there under the name that other stages look for",
        f"{WRITTEN}::test_both_names_of_the_model_file_have_its_bytes",
        (
            OUTPUT,
            "names = [whole, own] if kind is FileKind.MODEL else",
            "names = [whole] if kind is FileKind.MODEL else",
        ),
    ),
    Mutation(
        "it is said what must not be resumed with",
        f"{WRITTEN}::test_a_round_robin_must_not_be_resumed_with",
        (OUTPUT, "    if catalog.training is not None and catalog.training.is_shuffled:\n", "    if False:\n"),
    ),
    Mutation(
        "a fragment's checksum is that of its bytes",
        "plan/test_fragment.py::test_the_zip_around_it_is_sound",
        ("plan/fragment.py", "record_start, self.data_bytes, crc32)\n", "record_start, self.data_bytes, crc32 ^ 1)\n"),
    ),
    Mutation(
        "what an earlier run wrote counts in the checksum",
        "run/test_checksum.py",
        (
            "run/checksum.py",
            "output.read_into(here, part)\n            self.value = zlib.crc32(part, self.value)\n",
            "output.read_into(here, part)\n",
        ),
    ),
    Mutation(
        "fragments are held against their checksums",
        f"{VERIFIED}::test_one_bit_of_a_fragment_is_found_twice",
        (AUDIT, "for record in found if record in bad]\n", "for record in ()]\n"),
    ),
    Mutation(
        "and against the values of the checkpoint",
        f"{VERIFIED}::test_a_fragment_that_torch_wrote_with_other_values",
        (AUDIT, "    audit_against(weights, planned, frozenset(), inputs, findings, others=others, share=share)\n", ""),
    ),
    Mutation(
        "steps too",
        f"{VERIFIED}::test_what_is_wrong",
        (AUDIT, "(own in found.steps or is_ours) and", "False and"),
    ),
    Mutation(
        "and the files around them",
        f"{VERIFIED}::test_what_is_wrong",
        (AUDIT, "        _others(directory, expected, inputs, findings)\n", "        pass\n"),
    ),
    Mutation(
        "an output is read again before it gets its name",
        f"{WRITTEN}::test_an_output_that_lacks_a_parameter_gets_no_name",
        (
            OUTPUT,
            "            return GateResult(findings=(Finding(kind=Kind.FILE, text=str(error)),))\n",
            "            return GateResult()\n",
        ),
    ),
    Mutation(
        "the folder has the name that accelerate and Lightning ask for",
        f"{BESIDE}::test_accelerates {BESIDE}::test_lightnings",
        (RESUMED, "    return tag if is_fixed else ", "    return "),
    ),
    Mutation(
        "what lies beside is copied from every node",
        f"{BESIDE}::test_nodes_have_files_of_their_own",
        (
            RESUMED,
            "        if program is not None:\n            fence",
            "        if program is not None and not found:\n            fence",
        ),
    ),
    Mutation(
        "but not what lies beside a tag by chance",
        f"{BESIDE}::test_a_tag_that_was_moved_has_nothing_beside_it",
        (RESUMED, "    if is_tag_itself(catalog.origin):\n", "    if False:\n"),
    ),
    Mutation(
        "nor through a link out of the directory",
        f"{BESIDE}::test_what_is_no_file_of_the_checkpoint",
        (RESUMED, "                        fence.check(path)\n", ""),
    ),
    Mutation(
        "nor a pipe",
        f"{BESIDE}::test_what_is_no_file_of_the_checkpoint",
        (RESUMED, "                        opened(path).close()\n", ""),
    ),
    Mutation(
        "what lies beside must not change meanwhile",
        f"{BESIDE}::test_a_file_that_changes_meanwhile",
        (OUTPUT, "        read_files=tuple(beside.files.values()),\n", "        read_files=(),\n"),
    ),
)
