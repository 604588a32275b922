"""What is asked for is understood, and what cannot be done is refused at once, in words that say what to type."""

from __future__ import annotations

from .mutation import Mutation

LINE = "cli/test_command_line.py"
AT_ONCE = "cli/test_refused_at_once.py::TestAtOnce"
DRY_RUN = "cli/test_refused_at_once.py::TestDryRun"
REMARKS = "outputs/test_remarks.py"
PROGRESS = "cli/test_progress.py"
CACHE = "whole/test_drop_cache.py"
UNREADABLE = "cli/test_bad_input.py::test_a_directory_that_may_not_be_read"
TELLS = "opening/test_rescue.py::TestDiagnosis::test_the_error_tells_all"

MUTATIONS = (
    Mutation(
        "warnings are printed, also when quiet",
        f"{LINE}::TestWhereItGoes::test_warnings_go_to_stderr_also_when_quiet",
        (
            "cli/actions.py",
            "    _warn(planned if flags.dry_run else report)\n",
            "    flags.quiet or _warn(planned if flags.dry_run else report)\n",
        ),
    ),
    Mutation(
        "an error is JSON, too",
        f"{LINE}::TestWhereItGoes::test_an_error_is_json_too",
        (
            "cli/ending.py",
            "    if as_json:\n        print(json.dumps(error_dict",
            "    if False:\n        print(json.dumps(error_dict",
        ),
    ),
    Mutation(
        "a folder that may not be read is not called empty",
        UNREADABLE,
        ("archive/discover.py", "        _refuse_unreadable(inside)\n", "        pass\n"),
    ),
    Mutation(
        "nor is the checkpoint around it called none",
        UNREADABLE,
        ("archive/discover.py", "        _refuse_unreadable(os.path.join(root, entry))\n", "        pass\n"),
    ),
    Mutation(
        "a rank's file that may not be read is one that is lost",
        "cli/test_bad_input.py::test_a_file_that_may_not_be_read",
        ("archive/load.py", "except (DamagedFile, NotACheckpoint) as error:", "except DamagedFile as error:"),
    ),
    Mutation(
        "what is lost with it is said",
        "cli/test_bad_input.py::test_a_file_that_may_not_be_read",
        (
            "opening/open.py",
            "    except (MissingFiles, DamagedFile, Disagreement, NotACheckpoint) as error:\n",
            "    except (MissingFiles, DamagedFile, Disagreement) as error:\n",
        ),
    ),
    Mutation(
        "an output that is taken is refused before anything is opened",
        f"{AT_ONCE}::test_an_output_that_is_not_empty {AT_ONCE}::test_an_output_that_is_a_file",
        ("api/writing.py", "    refuse_taken_output(directory, overwrite=options.overwrite)\n", ""),
    ),
    Mutation(
        "a dry run refuses an output in the checkpoint",
        f"{AT_ONCE}::test_an_output_in_the_checkpoint",
        ("api/writing.py", "        refuse_inside(directory, checkpoint=place)\n", "        pass\n"),
    ),
    Mutation(
        "a pattern that matches nothing is refused",
        f"{AT_ONCE}::test_options",
        ("options/globs.py", "        if not matches(glob, names):\n", "        if False:\n"),
    ),
    Mutation(
        "a pattern that matches nothing is refused before values are read",
        f"{AT_ONCE}::test_before_values_tell_which_parameter_is_which",
        ("opening/opened.py", "            refuse_unmatched(options.include, catalog.order)\n", "            pass\n"),
    ),
    Mutation(
        "that nothing is left to write is known before names are asked for",
        f"{AT_ONCE}::test_options",
        ("outputs/planned.py", "    refuse_empty(selection)  # before anyone is asked for names\n", ""),
    ),
    Mutation(
        "pooling without a size is refused before names are asked for",
        f"{AT_ONCE}::test_pooling_without_a_size",
        ("outputs/model.py", "    remarks.refuse_unsized(options, assets.copies)\n", ""),
    ),
    Mutation(
        "a dry run asks for room",
        f"{DRY_RUN}::test_a_disk_that_is_too_small",
        (
            "outputs/make.py",
            "    refuse_unwritable(directory, output.plan.sizes, cloned_bytes=cost.cloned_bytes)\n",
            "",
        ),
    ),
    Mutation(
        "a dry run sees what is staged",
        f"{DRY_RUN}::test_work_of_another_conversion_that_is_staged",
        (
            "outputs/make.py",
            "    refuse_staged(directory, traits, overwrite=options.overwrite, restart=options.restart)\n",
            "",
        ),
    ),
    Mutation(
        "a dry run sees what may not be written",
        f"{DRY_RUN}::test_a_folder_that_may_not_be_written",
        ("write/refusals.py", "        if not os.access(here, ", "        if False and not os.access(here, "),
    ),
    Mutation(
        "that an output differs is not said besides what makes it differ",
        f"{DRY_RUN}::test_work_of_another_conversion_that_is_staged",
        ("write/journal.py", 'if aspect not in ("output", "layout")] or [', "] or ["),
    ),
    Mutation(
        "the shards in a tag's own folder are no unknown files",
        f"{REMARKS}::TestATagsFolder::test_the_shards_are_no_unknown_files",
        ("outputs/assets.py", "    if is_tag:\n", "    if False:\n"),
    ),
    Mutation(
        "what adds a config is said",
        f"{REMARKS}::TestATagsFolder::test_what_adds_a_config_is_said {REMARKS}::TestMissing::test_the_base_was_looked_into_too",
        ("outputs/missing.py", "    if not lacking:\n", "    if True:\n"),
    ),
    Mutation(
        "a config in the folder above is named",
        f"{REMARKS}::TestATagsFolder::test_one_in_the_folder_above_is_named_but_not_taken",
        ("outputs/missing.py", "            source = shlex.quote(above)\n", "            pass\n"),
    ),
    Mutation(
        "a model that lacks tensors is not written without a word",
        f"{REMARKS}::TestPartialModels::test_what_a_loader_fills_with_random_values_is_said",
        ("outputs/remarks.py", "    if options.partial and ", "    if False and options.partial and "),
    ),
    Mutation(
        "nor verified without one",
        f"{REMARKS}::TestPartialModels::test_verify_says_so_too",
        ("audit/output.py", '        findings.notes += _partial(manifest.get("options") or {})\n', "        pass\n"),
    ),
    Mutation(
        "a large model is not one file",
        f"{REMARKS}::TestLargeModels::test_more_than_50_gb_are_split_and_it_is_said",
        ("options/convert.py", '        "50GB",\n', "        None,\n"),
    ),
    Mutation(
        "that it was split is said",
        f"{REMARKS}::TestLargeModels::test_more_than_50_gb_are_split_and_it_is_said",
        ("outputs/remarks.py", "    if plan.index is None or options", "    if True or options"),
    ),
    Mutation(
        "a size without a unit is refused",
        "options/test_values.py::test_a_text_without_a_unit_is_no_size",
        ("options/values.py", "    if not unit:\n", '    unit = unit or "B"\n    if False:\n'),
    ),
    Mutation(
        "the reason and the file are said once",
        TELLS,
        (
            "opening/open.py",
            "error.message, error.expected, error.found, error.address = ranks, None, None, (files.directory,)",
            'error.message = f"{error.message}; {ranks}"',
        ),
    ),
    Mutation(
        "--tag last-complete is proposed only if there is one",
        "opening/test_rescue.py::TestDiagnosis::test_trainers_older_checkpoints_are_looked_at",
        ("opening/remedies.py", "    return () if newest is None else (f", "    return (f"),
    ),
    Mutation(
        "a rescue is proposed only if something is left",
        "opening/test_rescue.py::TestDiagnosis::test_where_nothing_is_left_no_rescue_is_offered",
        ("opening/remedies.py", "lost_numel < loss.numel for loss", "lost_numel <= loss.numel for loss"),
    ),
    Mutation(
        "the line to type has the output",
        "opening/test_rescue.py::TestDiagnosis::test_the_line_to_type_is_complete",
        ("cli/problems.py", 'remedy.replace("OUTPUT", shlex.quote(output))', "remedy"),
    ),
    Mutation(
        "rows are shown only where they differ",
        f"{LINE}::TestLayout::test_rows_are_shown_where_they_differ",
        ("cli/problems.py", "    if len(alike) == 1 and not has_whole:\n", "    if False:\n"),
    ),
    Mutation(
        "a place is named once",
        f"{LINE}::TestLayout::test_no_place_is_named_twice cli/test_bad_input.py::test_a_file_size_limit",
        ("errors/base.py", '        if not f"{first}/".startswith(', '        if True or not f"{first}/".startswith('),
    ),
    Mutation(
        "a checkpoint to verify is known from an output",
        f"{LINE}::TestVerify::test_a_checkpoint {LINE}::TestVerify::test_an_output_and_a_checkpoint",
        ("cli/forms.py", "(is_checkpoint(path) or", "(False or"),
    ),
    Mutation(
        "what we wrote is an output, whatever lies in it",
        f"{LINE}::TestVerify::test_a_checkpoint_beside_which_weights_lie",
        ("cli/forms.py", "return not has_manifest and ", "return "),
    ),
    Mutation(
        "underscores in options are hyphens",
        f"{LINE}::TestSpellings::test_those_of_zero_to_fp32",
        ("cli/understand.py", 'name.replace("_", "-") + equals', "name + equals"),
    ),
    Mutation(
        "paths may stand behind options",
        f"{LINE}::TestSpellings::test_options_may_stand_anywhere",
        ("cli/understand.py", '[*getattr(given, "roots", ()), *rest]', '[*getattr(given, "roots", ())]'),
    ),
    Mutation(
        "other programs' options are answered",
        f"{LINE}::TestSpellings::test_an_unknown_option_is_answered",
        ("cli/understand.py", "        remedy = _INSTEAD[name]\n", "        remedy = None\n"),
    ),
    Mutation(
        "inspect says that the newest save is not complete",
        f"{LINE}::TestInspect::test_it_says_which_tags_are_complete",
        ("cli/actions.py", "(bool(options) or info.resume is None or info.resume.newest_whole)", "True"),
    ),
    Mutation(
        "whoever names a tag asks about that one",
        f"{LINE}::TestInspect::test_whoever_names_a_tag_asks_about_that_one",
        (
            "cli/actions.py",
            "(bool(options) or info.resume is None or info.resume.newest_whole)",
            "(info.resume is None or info.resume.newest_whole)",
        ),
    ),
    Mutation(
        "of many tags only the newest are checked",
        f"{LINE}::TestInspect::test_of_many_tags_only_the_newest_are_checked",
        ("saves/run.py", "files <= MAX_EXAMINED_FILES or", "True or"),
    ),
    Mutation(
        "the base that is recorded is proposed",
        "adapters/test_lora_merge.py::test_the_base_that_is_recorded_is_proposed",
        ("adapters/base.py", "    if os.path.isdir(base) or is_hub_id(base):\n", "    if False:\n"),
    ),
    Mutation(
        "the directory that was meant is named",
        "integrations/test_hub.py::test_the_nearest_directory_is_named",
        ("integrations/hub.py", "    near = _near(base)\n", "    near = None\n"),
    ),
    Mutation(
        "in a log there is a sign of life",
        f"{PROGRESS}::TestCommand::test_in_a_log",
        (
            "cli/progress.py",
            '                self._stream.write(f"zeroconsolidate: {self.line(time.monotonic())}\\n")\n',
            "",
        ),
    ),
    Mutation(
        "on a terminal the bar is gone in the end",
        f"{PROGRESS}::TestDisplay::test_on_a_terminal_a_bar_is_redrawn_and_gone_in_the_end",
        (
            "cli/progress.py",
            "        with suppress(OSError, ValueError):\n            if bar is not None:\n                bar.close()\n",
            "",
        ),
    ),
    Mutation(
        "what is done at once leaves no trace on a terminal",
        f"{PROGRESS}::TestDisplay::test_what_is_done_at_once_leaves_no_trace",
        (
            "cli/progress.py",
            "        wait = FIRST_SECONDS\n",
            "        wait = 0.0\n",
        ),
    ),
    Mutation(
        "the next step does not show the files of the last one",
        f"{PROGRESS}::TestLine::test_how_many_files_of_how_many",
        (
            "cli/progress.py",
            "self._doing, self._since, self._files = doing, time.monotonic(), None\n",
            "self._doing, self._since = doing, time.monotonic()\n",
        ),
    ),
    Mutation(
        "a file that is read again is not counted again",
        f"{PROGRESS}::TestFilesRead::test_a_file_that_is_read_again_is_not_counted_again",
        (
            "archive/load.py",
            "self._names.add(raw.name.name)\n",
            'self._names.add(f"{raw.name.name} {len(self._names)}")\n',
        ),
    ),
    Mutation(
        "what is read goes from the page cache",
        f"{CACHE}::TestFiles::test_runs_that_are_mapped",
        ("run/local.py", "self._trails.setdefault(file, Trail(start)).touched(opened.fd, start, stop)\n", "pass\n"),
    ),
    Mutation(
        "what was never read stays in the page cache",
        f"{CACHE}::TestFiles::test_what_is_read_is_dropped_and_what_lies_beside_it_is_not",
        ("run/page_cache.py", "                trail.end(fd)\n", "                drop(fd)\n"),
    ),
    Mutation(
        "an empty range is not the whole file",
        f"{CACHE}::TestTrail::test_nothing_is_not_everything",
        ("run/page_cache.py", "(stop is None or size_bytes > 0)", "True"),
    ),
    Mutation(
        "the kernel's large folios are dropped, too",
        f"{CACHE}::TestTrail::test_what_the_kernel_keeps_as_one_is_dropped_as_one",
        ("run/page_cache.py", "max(self._begin, self._dropped - _FOLIO_BYTES)", "self._dropped"),
    ),
    Mutation(
        "who writes a part is told that nothing is dropped",
        f"{CACHE}::test_where_the_system_has_no_such_call_it_is_said",
        ("outputs/parts.py", "*side_files.warnings, *kept_instead(asked=options.drop_cache))", "*side_files.warnings)"),
    ),
    Mutation(
        "files that compare reads are counted",
        f"{PROGRESS}::TestFilesRead::test_of_two_that_are_compared",
        ("audit/compare.py", "find_side(path, files_read=options.files_read)", "find_side(path)"),
    ),
    Mutation(
        "files of each save of a run are counted",
        f"{PROGRESS}::TestFilesRead::test_of_a_run_directory_each_save_is_counted_by_itself",
        ("saves/run.py", "partial(examine, files_read=files_read)", "examine"),
    ),
    Mutation(
        "what lies behind a failed piece is made again",
        "whole/test_workers.py::TestErrors::test_a_disk_that_is_full_in_one_of_the_files",
        (
            "run/execute.py",
            "for piece, seen in threads.in_order(_pieces(plan, start, stop, PIECE_BYTES)):\n"
            "                    made(piece.tensor, piece.end_byte, seen)\n",
            "for piece, seen in threads.in_order(_pieces(plan, start, stop, PIECE_BYTES)):\n"
            "                    made(piece.tensor, piece.end_byte + 1024, seen)\n",
        ),
    ),
    Mutation(
        "without room for a thread the work goes on",
        f"{PROGRESS}::TestDisplay::test_where_no_thread_can_be_started_the_work_goes_on",
        ("cli/progress.py", "            with suppress(RuntimeError):\n", "            if True:\n"),
    ),
    Mutation(
        "what needs torch says so before anything is written",
        "whole/test_without_torch.py::test_a_merge_says_what_it_needs_before_it_writes",
        ("outputs/adapted.py", '    need_torch("merging adapters")\n', ""),
    ),
    Mutation(
        "what needs PEFT says so before anything is written",
        "adapters/test_lora_by_peft.py::test_without_peft_it_is_said_before_anything_is_written",
        ("adapters/plan_merge.py", "        need_peft(config.peft_type)\n", "        pass\n"),
    ),
    Mutation(
        "a system without O_TMPFILE is not asked to share blocks",
        "whole/test_other_systems.py::test_one_call_at_a_time",
        ("run/clone.py", 'if sys.platform != "linux" or not hasattr(os, "O_TMPFILE"):', "if False:"),
    ),
    Mutation(
        "Windows gets a sentence",
        "whole/test_other_systems.py::test_windows_gets_a_sentence",
        ("cli/__init__.py", "        refuse_windows()\n", "        pass\n"),
    ),
    Mutation(
        "an exception that nobody expected is called a bug",
        "cli/test_ending.py::TestBug::test_it_is_called_one",
        ("cli/ending.py", "code = ExitCode.BUG if said is not error else ExitCode.ERROR", "code = ExitCode.ERROR"),
    ),
    Mutation(
        "no colours against NO_COLOR",
        "cli/test_ending.py::TestColour::test_never_against_who_does_not_want_it",
        ("cli/colour.py", '    if os.environ.get("NO_COLOR"):\n        return False\n', ""),
    ),
    Mutation(
        "values of variables are not printed",
        "cli/test_ending.py::TestEnv::test_as_json",
        ("integrations/surroundings.py", "tuple(name for name in", "tuple(os.environ[name] for name in"),
    ),
)
