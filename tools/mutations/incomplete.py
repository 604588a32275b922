"""Incomplete checkpoints are diagnosed, and rescued only when asked."""

from __future__ import annotations

from .mutation import Mutation

TELLS = "opening/test_rescue.py::TestDiagnosis::test_the_error_tells_all"
HELD = "opening/test_rescue.py::TestOneRankLost::test_what_is_lost_is_what_that_rank_held"
ROOTS = "opening/test_rescue.py::TestSeveralRoots"
FROZEN = "opening/test_rescue.py::TestFrozenFromBase::test_another_model_is_not_mixed_in"

MUTATIONS = (
    Mutation(
        "a missing rank is an error",
        f"{TELLS} cli/test_bad_input.py::test_a_broken_checkpoint",
        ("catalog/read.py", "        if missing:\n            raise are_missing(missing, sharers)\n", ""),
    ),
    Mutation(
        "a missing model file of stage 3 is an error",
        "cli/test_bad_input.py::test_a_broken_checkpoint",
        (
            "catalog/read.py",
            "            missing += missing_ranks(files, FileKind.PARTITIONED_MODEL, sharers, grid)\n",
            "            pass\n",
        ),
    ),
    Mutation(
        "a rank with two files is an error",
        "cli/test_bad_input.py::test_a_broken_checkpoint catalog/test_catalog.py::test_a_rank_with_two_files",
        ("catalog/agree.py", "            if rank in by_rank:\n", "            if False:\n"),
    ),
    Mutation(
        "files of a save with more ranks are an error",
        "cli/test_bad_input.py::test_stale_files_of_a_larger_world",
        (
            "catalog/agree.py",
            "            if name.dp_rank >= world_size or name.mp_rank >= grid.size:\n",
            "            if False:\n",
        ),
    ),
    Mutation(
        "a truncated file is told from one that is no checkpoint",
        TELLS,
        (
            "archive/zip_directory.py",
            '        return DamagedFile("the file is not a torch checkpoint: it is not a zip archive")\n    tail',
            '        return DamagedFile("the file is not a torch checkpoint: it is not a zip archive")\n    return DamagedFile("the file is damaged")\n    tail',
        ),
    ),
    Mutation(
        "a file that is cut in its data is truncated, though its directory be there",
        "archive/test_hostile_containers.py::test_forged_containers_are_refused",
        ("archive/zip_directory.py", "    if start + directory_bytes > end_start:\n", "    if False:\n"),
    ),
    Mutation(
        "optimizer files of another step are an error",
        "cli/test_bad_input.py::test_an_optimizer_file_of_another_step",
        ("catalog/read.py", '        same(ranks, "the optimizer\'s step", lambda o: o.steps or None)\n', ""),
    ),
    Mutation(
        "model files of another step are an error",
        "cli/test_bad_input.py::test_a_model_file_of_another_step",
        ("catalog/read.py", "    same(models, \"the step ('global_steps')\", lambda m: m.step)\n", ""),
    ),
    Mutation(
        "files of another world size are an error",
        "cli/test_bad_input.py::test_a_file_of_a_larger_world",
        ("catalog/read.py", "    same(models, \"the world size ('dp_world_size')\", lambda m: m.world_size)\n", ""),
    ),
    Mutation(
        "files of another DeepSpeed are an error",
        "cli/test_bad_input.py::test_a_file_of_another_deepspeed",
        (
            "catalog/read.py",
            '    same(optimizers, "the DeepSpeed version", lambda o: o.ds_version, reference=(here, first.ds_version))\n',
            "",
        ),
    ),
    Mutation(
        "files of another stage are an error",
        "cli/test_bad_input.py::test_a_file_of_another_stage",
        ("catalog/read.py", '    same(optimizers, "the stage", lambda o: o.stage)\n', ""),
        ("catalog/read.py", '    same(optimizers, "the kind of flat groups", lambda o: o.cut)\n', ""),
    ),
    Mutation(
        "files with other shapes are an error",
        "cli/test_bad_input.py::test_a_rank_with_other_shapes",
        (
            "catalog/read.py",
            "    same([model], \"'param_shapes'\", ordered_shapes, reference=(name, ordered_shapes(first)))\n",
            "",
        ),
    ),
    Mutation(
        "masters of another save do not pass the witness",
        "cli/test_bad_input.py::test_masters_and_module_of_different_saves cli/test_bad_input.py::test_swapped_ranks_do_not_pass_the_witness",
        (
            "outputs/checks.py",
            '    if check == "none" or not (catalog.module or catalog.stacked):\n        return 0\n',
            "    return 0\n",
        ),
    ),
    Mutation(
        "ranks that hold different copies are an error",
        "whole/test_layouts.py::test_drifted_replicas_are_refused",
        (
            "outputs/checks.py",
            "        compare([comparison for comparison in found if not comparison.is_spare], inputs, others=others)\n",
            "",
        ),
    ),
    Mutation(
        "`latest` that names a broken tag: the newest complete one is named",
        TELLS,
        (
            "opening/open.py",
            "    alternatives = _alternatives(files.root, roots, verb)\n",
            "    alternatives: tuple[str, ...] = ()\n",
        ),
    ),
    Mutation(
        "`latest` that names no tag: the newest complete one is named",
        "opening/test_rescue.py::TestDiagnosis::test_latest_may_name_a_tag_that_was_never_begun",
        ("opening/open.py", "            error.remedies += of_a_tag(newest_complete(roots))\n", "            pass\n"),
    ),
    Mutation(
        "an older checkpoint of the Trainer is named",
        "opening/test_rescue.py::TestDiagnosis::test_trainers_older_checkpoints_are_looked_at",
        (
            "opening/open.py",
            "    return of_a_sibling(home, lambda sibling: _is_complete([sibling], None), verb)\n",
            "    return ()\n",
        ),
    ),
    Mutation(
        "last-complete is complete",
        "opening/test_rescue.py::TestDiagnosis::test_last_complete_is_the_newest_whole_one",
        (
            "opening/open.py",
            "for tag in reversed(_tags(roots)) if _is_complete(roots, tag)), None)",
            "for tag in reversed(_tags(roots))), None)",
        ),
    ),
    Mutation(
        "last-complete is the newest",
        "opening/test_rescue.py::TestDiagnosis::test_last_complete_is_the_newest_whole_one",
        ("opening/open.py", "next((tag for tag in reversed(_tags(roots))", "next((tag for tag in _tags(roots)"),
    ),
    Mutation(
        "most files decide which save it is",
        "opening/test_rescue.py::TestDiagnosis::test_most_files_decide_which_save_it_is",
        (
            "opening/incomplete.py",
            "key=lambda value: (steps[value], others[value], -1 if value is None else value)",
            "key=lambda value: (others[value], -1 if value is None else value)",
        ),
    ),
    Mutation(
        "of two saves with as many files it is the newer",
        "opening/test_rescue.py::TestDiagnosis::test_most_files_decide_which_save_it_is",
        (
            "opening/incomplete.py",
            "key=lambda value: (steps[value], others[value], -1 if value is None else value)",
            "key=lambda value: (steps[value], others[value], 1 if value is None else -value)",
        ),
    ),
    Mutation(
        "of two saves with as many files it is the one that the files of the other kind are of",
        "opening/test_rescue.py::TestDiagnosis::test_of_two_that_are_equally_common_the_one_is_taken_that_the_other_files_are_of",
        (
            "opening/incomplete.py",
            "key=lambda value: (steps[value], others[value], -1 if value is None else value)",
            "key=lambda value: (steps[value], -1 if value is None else value)",
        ),
    ),
    Mutation(
        "what contradicts itself is not rescued",
        "opening/test_rescue.py::TestDiagnosis::test_other_disagreements_stay_what_they_are",
        (
            "opening/incomplete.py",
            "    for model in models[1:]:\n        same_shapes(first, model)\n",
            "",
        ),
    ),
    Mutation(
        "what is lost is told to the element",
        HELD,
        (
            "opening/losses.py",
            "            found.append((start, stop))\n",
            "            found.append((0, recipe.numel))\n",
        ),
    ),
    Mutation(
        "the error counts the bytes",
        TELLS,
        (
            "opening/losses.py",
            "        lost_bytes=lost * itemsize,\n",
            "        lost_bytes=numel * itemsize if lost else 0,\n",
        ),
    ),
    Mutation(
        "the command lists the tensors",
        "opening/test_rescue.py::TestDiagnosis::test_the_command_lists_the_worst",
        (
            "cli/problems.py",
            '    lines += [f"    {row}" for row in loss_rows(error.losses, checkpoint)]\n',
            "",
        ),
    ),
    Mutation(
        "nothing is rescued unless asked",
        TELLS,
        (
            "opening/opened.py",
            "    if options.rescue:\n        incomplete = open_files_incomplete(files, files_read=options.files_read)\n        if incomplete",
            "    if True:\n        incomplete = open_files_incomplete(files, files_read=options.files_read)\n        if incomplete",
        ),
    ),
    Mutation(
        "an attack is not rescued from",
        "opening/test_rescue.py::TestDiagnosis::test_an_attack_is_not_a_loss",
        (
            "archive/load.py",
            "            except (UnsafePickle, UnsafePath):\n                raise\n            except (DamagedFile, NotACheckpoint)",
            "            except (DamagedFile, NotACheckpoint)",
        ),
    ),
    Mutation(
        "the exit code of a rescue is 3",
        "opening/test_rescue.py::TestRescue::test_exit_codes",
        (
            "cli/actions.py",
            "    code = ExitCode.LOSSES if report.rescue else ExitCode.DONE\n",
            "    code = ExitCode.DONE\n",
        ),
    ),
    Mutation(
        "rescue-report.json is written",
        "opening/test_rescue.py::TestRescue::test_the_report_is_written_returned_and_true",
        (
            "outputs/prepared.py",
            "        side_files.made[RESCUE_REPORT_NAME] = opened.report.to_json()\n",
            "        pass\n",
        ),
    ),
    Mutation(
        "the report is returned",
        "opening/test_rescue.py::TestRescue::test_the_report_is_written_returned_and_true",
        ("outputs/report.py", "        rescue=opened.report,\n", "        rescue=None,\n"),
    ),
    Mutation(
        "what survives stays as trained",
        HELD,
        (
            "plan/patched.py",
            "                yield from self.whole.copies(here, first)\n",
            "                yield from self.patch.copies(here, first)\n",
        ),
    ),
    Mutation(
        "the 16-bit copy comes before other stand-ins",
        f"{HELD} opening/test_rescue.py::TestRescue::test_the_order_of_stand_ins",
        (
            "opening/rescue.py",
            '            return _stand_in(View(copy), "module", others.step)\n',
            "            pass\n",
        ),
    ),
    Mutation(
        "a 16-bit copy has the parameter's shape",
        "catalog/test_catalog.py::test_a_module_of_other_shapes",
        ("catalog/names.py", "        if tensor.shape != expected:\n", "        if False:\n"),
    ),
    Mutation(
        "a model to fill with stands in only in the parameter's shape",
        "opening/test_rescue.py::TestRescue::test_fill_comes_from_where_it_says",
        (
            "opening/rescue.py",
            "    return one.shape == other.shape and",
            "    return",
        ),
    ),
    Mutation(
        "a model to fill with stands in only in numbers of the parameter's kind",
        "opening/test_rescue.py::TestRescue::test_fill_of_another_kind_of_numbers_is_not_used",
        ("opening/rescue.py", " and one.recipe.dtype.kind == other.recipe.dtype.kind", ""),
    ),
    Mutation(
        "the first model to fill with comes first",
        "opening/test_rescue.py::TestRescue::test_fill_comes_from_where_it_says",
        (
            "opening/rescue.py",
            "    for filler, tensors in others.fillers:\n",
            "    for filler, tensors in reversed(others.fillers):\n",
        ),
    ),
    Mutation(
        "the report says from which step a filling is",
        "opening/test_rescue.py::TestRescue::test_fill_comes_from_where_it_says",
        ("opening/rescue.py", '"fill", filler.step, filler.label)', '"fill", others.step, filler.label)'),
    ),
    Mutation(
        "the report says of what precision a stand-in is",
        f"opening/test_rescue.py::TestRescue::test_fill_comes_from_where_it_says {HELD}",
        (
            "opening/rescue.py",
            "        origins.append(replace(foreign, start=start, stop=stop))\n",
            "        origins.append(replace(foreign, start=start, stop=stop, dtype=own.dtype))\n",
        ),
    ),
    Mutation(
        "zeros only when asked for",
        "opening/test_rescue.py::TestOneRankLost::test_without_zeros_only_whole_tensors_are_written",
        ("opening/rescue.py", "    if others.zeros:\n", "    if True:\n"),
    ),
    Mutation(
        "nothing at all is an error",
        "opening/test_rescue.py::TestRescue::test_nothing_at_all",
        ("opening/substitutes.py", "    if all(tensor.source is None for tensor in found):\n", "    if False:\n"),
    ),
    Mutation(
        "ties are not guessed",
        "opening/test_rescue.py::TestRescue::test_ties_are_not_guessed_when_rank_0_is_lost",
        ("opening/incomplete.py", "    if first.rank == 0:\n        return first\n", "    return first\n"),
    ),
    Mutation(
        "--fill without --rescue is an error",
        "opening/test_rescue.py::TestRescue::test_options_that_make_no_sense",
        ("options/common.py", "    if not rescue and roots_of(fill):\n", "    if False:\n"),
    ),
    Mutation(
        "an adapter is rescued whole or not at all",
        "adapters/test_lora_rescue.py::test_an_adapter_is_whole_or_not_written",
        ("outputs/adapted.py", "        _refuse_broken(adapters, opened.report)\n", "        pass\n"),
    ),
    Mutation(
        "ranks are gathered across roots",
        f"{ROOTS}::test_ranks_are_gathered",
        (
            "archive/gather.py",
            '        elsewhere={name: path for name, path in paths.items() if path != f"{main.directory}/{name}"},\n',
            "        elsewhere={},\n",
        ),
    ),
    Mutation(
        "copies of a file must be equal",
        f"{ROOTS}::test_copies_of_a_file_must_be_equal",
        ("archive/gather.py", "                    _same(paths[name.name], path)\n", "                    pass\n"),
    ),
    Mutation(
        "copies are compared by checksum",
        f"{ROOTS}::test_copies_of_a_file_must_be_equal",
        ("archive/gather.py", "return container.size_bytes, container.checksums", "return container.size_bytes, None"),
    ),
    Mutation(
        "copies without checksums are compared byte by byte",
        f"{ROOTS}::test_copies_without_checksums_are_compared_byte_by_byte",
        (
            "archive/gather.py",
            "            if all(crc32 == 0 for _, size_bytes, crc32 in container.checksums if size_bytes):\n",
            "            if False:\n",
        ),
    ),
    Mutation(
        "copies in torch's older container are compared byte by byte",
        f"{ROOTS}::test_copies_without_checksums_are_compared_byte_by_byte",
        ("archive/gather.py", "        return filecmp.cmp(one, other, shallow=False)\n", "        return True\n"),
    ),
    Mutation(
        "roots belong to different saves are refused",
        f"{ROOTS}::test_directories_of_different_saves_are_refused",
        ("archive/gather.py", "    if len(tags) > 1:\n", "    if False:\n"),
    ),
    Mutation(
        "frozen parameters come only from a model with the same names",
        FROZEN,
        ("naming/base.py", '            return {}, f"the base model has no {name}"\n', "            continue\n"),
    ),
    Mutation(
        "frozen parameters come only from a model with the same shapes",
        FROZEN,
        ("naming/base.py", "        if there.shape != source.shape:\n", "        if False:\n"),
    ),
)
