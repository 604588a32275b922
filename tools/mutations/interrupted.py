"""Interrupted conversions continue, and nothing incomplete has a final name."""

from __future__ import annotations

from .mutation import Mutation

SYNCED = "whole/test_resume.py::test_data_is_synced_before_the_journal_says_so"
DURABLE = "write/test_journal.py::test_what_leads_to_the_data_is_synced_too"

MUTATIONS = (
    Mutation(
        "data is synced before the journal says how far it is",
        SYNCED,
        (
            "write/part.py",
            "            os.fsync(self._fd)\n            self.output.synced(upto)",
            "            self.output.synced(upto)",
        ),
    ),
    Mutation(
        "a file is synced before the journal says that it is done",
        SYNCED,
        ("write/stage.py", "            part.finish(sync=not together)\n", ""),
    ),
    Mutation(
        "files that are synced together are synced before the journal says that they are done",
        "write/test_batch.py::test_nothing_is_written_down_before_it_is_synced",
        ("write/batch.py", "                os.fsync(fd)\n", "                pass\n"),
    ),
    Mutation(
        "small files are synced before the journal says that all is done",
        SYNCED,
        ("write/stage.py", "                os.fsync(fd)\n        finally", "                pass\n        finally"),
    ),
    Mutation(
        "names of staged files are synced before the journal says that all is done",
        SYNCED,
        (
            "write/stage.py",
            "                sync_directory(directory)\n            self._staging.make_durable()",
            "                pass\n            self._staging.make_durable()",
        ),
    ),
    Mutation(
        "the folders that lead to the journal are synced before it speaks of data",
        DURABLE,
        (
            "write/stage.py",
            "        if not self._journal.progress.upto:\n            self._staging.make_durable()\n",
            "",
        ),
    ),
    Mutation(
        "the folders that lead to the journal are synced before it speaks of publishing",
        DURABLE,
        (
            "write/stage.py",
            "            self._staging.make_durable()\n            self._journal.append",
            "            self._journal.append",
        ),
    ),
    Mutation(
        "a record of the journal is synced",
        DURABLE,
        ("write/journal.py", "            os.fsync(self._fd)\n", ""),
    ),
    Mutation(
        "final names are synced",
        DURABLE,
        ("write/publish.py", "        sync_directory(folder)\n", "        pass\n"),
    ),
    Mutation(
        "a record with a wrong checksum does not count",
        "write/test_journal.py::test_a_damaged_record_and_what_follows_do_not_count",
        ("write/journal.py", ' or crc != b"%08x" % zlib.crc32(text)', ""),
    ),
    Mutation(
        "a record without an end does not count",
        "write/test_journal.py::test_a_torn_record_is_cut_off_before_others_follow",
        ("write/journal.py", 'not line.endswith(b"\\n") or crc', "crc"),
    ),
    Mutation(
        "a torn record is cut off before others follow it",
        "write/test_journal.py::test_a_damaged_record_and_what_follows_do_not_count",
        (
            "write/journal.py",
            "            os.ftruncate(self._fd, self.progress.valid_bytes)\n            os.lseek(self._fd, self.progress.valid_bytes, os.SEEK_SET)\n",
            "            os.lseek(self._fd, 0, os.SEEK_END)\n",
        ),
    ),
    Mutation(
        "a journal that claims more than is there is not believed",
        "whole/test_resume.py::test_a_journal_that_claims_more_than_is_there_is_not_believed",
        (
            "write/part.py",
            "self.start = upto if begin <= upto <= min(os.fstat(fd).st_size, size_bytes) else begin",
            "self.start = upto",
        ),
    ),
    Mutation(
        "what the journal does not vouch for is cut off",
        "write/test_journal.py::test_what_the_journal_does_not_vouch_for_is_cut_off",
        ("write/stage.py", "                os.ftruncate(fd, part.start)\n", ""),
    ),
    Mutation(
        "a complete file that was taken away is made again",
        "write/test_journal.py::test_a_staged_file_that_was_taken_away_is_made_again",
        ("write/stage.py", "if self.is_publishing or os.path.getsize(self.path(name)) == size_bytes:", "if True:"),
    ),
    Mutation(
        "what is on disk is not made again",
        "whole/test_resume.py::test_does_not_copy_what_is_on_disk",
        ("write/part.py", "        upto = before.upto.get(name, begin)\n", "        upto = begin\n"),
    ),
    Mutation(
        "an interruption syncs what there is",
        "whole/test_resume.py::test_goes_on_where_it_was_interrupted",
        ("write/stage.py", "                        part.sync()\n", "                        pass\n"),
    ),
    Mutation(
        "a sync that failed in the background stops the conversion",
        "whole/test_resume.py::test_a_sync_that_failed_in_the_background_stops_the_conversion",
        ("write/part.py", "            self._under_way.result()\n", "            self._under_way.join()\n"),
    ),
    Mutation(
        "so does one of files that are synced together",
        "write/test_batch.py::test_a_sync_that_failed_is_raised_and_nothing_is_written_down",
        ("write/batch.py", "            self._under_way.result()\n", "            self._under_way.join()\n"),
    ),
    Mutation(
        "copying is never two syncs ahead",
        "whole/test_resume.py::test_at_most_a_gibibyte_or_ten_seconds_are_lost",
        (
            "write/part.py",
            "    def _begin_sync(self) -> None:\n        self._wait()\n",
            "    def _begin_sync(self) -> None:\n",
        ),
    ),
    Mutation(
        "a descriptor is not closed under a sync",
        "write/test_journal.py::test_a_descriptor_is_not_closed_under_a_sync",
        ("write/stage.py", "                part.close()\n", "                pass\n"),
    ),
    Mutation(
        "so many bytes bring a sync",
        "whole/test_resume.py::test_data_is_synced_before_the_journal_says_so",
        ("write/part.py", "written_bytes >= SYNC_BYTES or ", ""),
    ),
    Mutation(
        "so much time brings a sync",
        "whole/test_resume.py::test_time_alone_brings_a_sync",
        ("write/part.py", " or time.monotonic() - self._clock >= SYNC_SECONDS", ""),
    ),
    Mutation(
        "at most a gibibyte is lost",
        "whole/test_resume.py::test_at_most_a_gibibyte_or_ten_seconds_are_lost",
        ("write/part.py", "SYNC_BYTES = 256 << 20", "SYNC_BYTES = 2048 << 20"),
    ),
    Mutation(
        "SIGTERM and SIGHUP stop in order",
        "whole/test_interrupt.py::test_a_signal_at_a_chosen_moment",
        ("cli/command.py", "        signal.signal(number, _end)\n", "        pass\n"),
    ),
    Mutation(
        "an ignored signal stays ignored",
        "whole/test_interrupt.py::test_an_ignored_signal_stays_ignored",
        ("cli/command.py", " if signal.getsignal(number) is signal.SIG_DFL]", "]"),
    ),
    Mutation(
        "a terminal that hung up is not spoken to",
        "whole/test_interrupt.py::test_a_terminal_that_hangs_up",
        (
            "cli/ending.py",
            '    with suppress(OSError):\n        print(f"zeroconsolidate: {message}',
            '    if True:\n        print(f"zeroconsolidate: {message}',
        ),
    ),
    Mutation(
        "changed options, sources and layouts are refused",
        "whole/test_resume.py::test_other_options_are_refused_and_named whole/test_resume.py::test_a_changed_source_is_refused_and_named",
        (
            "write/staging_folder.py",
            "            refuse_other(progress.fingerprint, self._fingerprint, self.path)\n",
            "",
        ),
    ),
    Mutation(
        "the fingerprint knows the options",
        "whole/test_resume.py::test_other_options_are_refused_and_named",
        ("write/fingerprint.py", '                "options": dict(options),\n', '                "options": {},\n'),
    ),
    Mutation(
        "the fingerprint knows the sources' times",
        "whole/test_resume.py::test_a_changed_source_is_refused_and_named",
        ("archive/places.py", '"mtime_ns": status.st_mtime_ns', '"mtime_ns": 0'),
    ),
    Mutation(
        "the fingerprint knows the layout",
        "write/test_journal.py::test_each_part_of_the_fingerprint_counts",
        ("write/fingerprint.py", "                    for file in layout\n", "                    for file in ()\n"),
    ),
    Mutation(
        "the fingerprint knows which tensors each is made of",
        "transforms/test_average.py::test_an_interrupted_one_is_not_continued_with_the_same_checkpoints_in_another_way",
        ("write/fingerprint.py", "        for begin in begins(tensor.recipe):\n", "        for begin in ():\n"),
    ),
    Mutation(
        "the fingerprint knows the sources' sizes",
        "write/test_journal.py::test_each_part_of_the_fingerprint_counts",
        ("archive/places.py", '"bytes": status.st_size', '"bytes": 0'),
    ),
    Mutation(
        "the fingerprint knows the library's version",
        "write/test_journal.py::test_each_part_of_the_fingerprint_counts",
        ("write/fingerprint.py", '{"version": version}', '{"version": ""}'),
    ),
    Mutation(
        "--restart is asked for before work is thrown away",
        "whole/test_resume.py::test_does_not_copy_what_is_on_disk",
        ("write/staging_folder.py", "if progress.fingerprint is not None and not self._restart:", "if False:"),
    ),
    Mutation(
        "--restart starts over",
        "whole/test_resume.py::test_other_options_are_refused_and_named",
        (
            "write/staging_folder.py",
            "progress.fingerprint is not None and not self._restart:",
            "progress.fingerprint is not None:",
        ),
    ),
    Mutation(
        "a source that changes meanwhile is noticed before anything is published",
        "whole/test_resume.py::test_a_source_that_changes_meanwhile_is_noticed",
        ("outputs/make.py", "                refuse_changed(traits, start_over=again, places=places)\n", ""),
    ),
    Mutation(
        "a source that changes between its metadata and the plan is noticed",
        "whole/test_changes_meanwhile.py::test_a_conversion_by_workers_notices",
        ("write/fingerprint.py", "        if path in known and _looks(path) != known[path]:\n", "        if False:\n"),
    ),
    Mutation(
        "values are read only of files that are as they were when their metadata were read",
        "whole/test_changes_meanwhile.py::test_an_open_checkpoint_notices",
        (
            "run/local.py",
            "        if known is not None and look_of(os.fstat(opened.fd)) != known:\n",
            "        if False:\n",
        ),
    ),
    Mutation(
        "what the kernel copies is of such a file, too",
        "run/test_io.py::test_a_changed_file_is_not_copied",
        (
            "run/local_output.py",
            "        source.refuse_changed(file, opened)\n        # Either",
            "        # Either",
        ),
    ),
    Mutation(
        "an index goes before the shards that it names are replaced",
        "whole/test_drop_in.py::test_an_index_never_names_files_of_two_saves",
        (
            "outputs/state_dict_files.py",
            "        if planned.old_index is not None:\n            #",
            "        if False:\n            #",
        ),
    ),
    Mutation(
        "one conversion at a time into one output",
        "whole/test_resume.py::test_two_at_once_are_refused whole/test_resume.py::test_two_at_once_in_one_process_are_refused",
        (
            "write/lock.py",
            "            fcntl.flock(self._fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)\n",
            "            pass\n",
        ),
    ),
    Mutation(
        "a lock on a file that was taken away is none",
        "write/test_journal.py::test_a_lock_on_a_file_that_was_taken_away_is_none",
        ("write/lock.py", "                if _same_file(self._fd, path):\n", "                if True:\n"),
    ),
    Mutation(
        "a disk that is too small is noticed first",
        "cli/test_bad_input.py::test_a_disk_that_is_too_small_is_noticed_first write/test_journal.py::test_room_is_asked_for_first",
        ("write/refusals.py", "    if free < size_bytes:\n", "    if False:\n"),
    ),
    Mutation(
        "what is staged counts as room",
        "write/test_journal.py::test_room_is_asked_for_first cli/test_refused_at_once.py::TestDryRun::test_what_is_staged_is_counted_in",
        (
            "write/refusals.py",
            "    free = disk.f_bavail * disk.f_frsize + sum(status.st_blocks * 512 for status in staged)\n",
            "    free = disk.f_bavail * disk.f_frsize\n",
        ),
    ),
    Mutation(
        "files take whole blocks of the disk",
        "write/test_journal.py::test_small_files_take_whole_blocks_and_folders_two cli/test_bad_input.py::test_a_disk_that_has_room_for_the_bytes_but_not_for_the_files",
        (
            "write/refusals.py",
            "    blocks = sum(-(-size // disk.f_frsize) for size in sizes.values()) + 2 * len(folders)\n",
            "    blocks = sum(sizes.values()) // disk.f_frsize\n",
        ),
    ),
    Mutation(
        "there are inodes for all files",
        "write/test_journal.py::test_files_need_inodes_where_they_are_counted",
        ("write/refusals.py", "    if disk.f_files and disk.f_favail + len(staged) < entries:\n", "    if False:\n"),
    ),
    Mutation(
        "a staged file of torch that cannot be read back is an error of the disk",
        "faults/test_faults.py::test_whatever_fails_no_name_is_wrong_and_a_second_run_succeeds",
        (
            "write/check.py",
            '            raise PlanBroken(f"the file cannot be read again: {error}") from None\n        except OSError as error:\n            raise _unreadable(error) from None\n',
            '            raise PlanBroken(f"the file cannot be read again: {error}") from None\n',
        ),
    ),
    Mutation(
        "a finished file is opened and compared with the plan before it gets its name",
        "whole/test_resume.py::test_a_finished_file_is_compared_with_the_plan",
        ("outputs/weights.py", "        check_file(stage.path(file.name), file)\n", ""),
    ),
    Mutation(
        "files are renamed only when all are done",
        "whole/test_interrupt.py::test_a_signal_at_a_chosen_moment whole/test_resume.py::test_goes_on_where_it_was_interrupted",
        (
            "write/staging_folder.py",
            'return os.path.join(self.path, "files", name)',
            "return os.path.join(self.output, name)",
        ),
    ),
    Mutation(
        "half-done publishing is finished",
        "whole/test_resume.py::test_half_done_publishing_is_finished",
        ("outputs/make.py", "            if stage.is_publishing:\n", "            if False:\n"),
    ),
    Mutation(
        "whoever is killed while clearing up can begin again",
        "whole/test_resume.py::test_killed_while_clearing_up",
        (
            "write/staging_folder.py",
            "        if published:\n            shutil.rmtree",
            "        if False:\n            shutil.rmtree",
        ),
    ),
    Mutation(
        "a published file that was taken away is noticed",
        "whole/test_resume.py::test_a_published_file_that_was_taken_away_is_noticed",
        (
            "write/publish.py",
            "        elif not os.path.isfile(target) or os.path.getsize(target) != sizes[name]:\n",
            "        elif False:\n",
        ),
    ),
    Mutation(
        "the manifest comes last",
        "whole/test_resume.py::test_half_done_publishing_is_finished",
        (
            "write/stage.py",
            "names = [name for name in self._names if name not in last] + [name for name in last if name in final]",
            "names = [n for n in last if n in final] + [n for n in self._names if n not in last]",
        ),
    ),
    Mutation(
        "with --overwrite index and manifest of the old model go first",
        "whole/test_resume.py::test_half_done_publishing_is_finished",
        (
            "write/publish.py",
            "                remove(os.path.join(output, old))\n    folders = ",
            "                pass\n    folders = ",
        ),
    ),
    Mutation(
        "with --overwrite the old model's weights go last",
        "whole/test_resume.py::test_half_done_publishing_is_finished",
        (
            "write/publish.py",
            "            if old not in sizes and (is_weights(old) or old in (*INDICES, ADAPTER_CONFIG)):\n",
            "            if False:\n",
        ),
    ),
    Mutation(
        "an output with something in it is refused",
        "cli/test_bad_input.py::test_an_output_that_exists",
        ("write/refusals.py", "    if overwrite or not os.path.isdir(output):\n", "    if True:\n"),
    ),
    Mutation(
        "an output in the checkpoint is refused, links looked through",
        "cli/test_bad_input.py::test_an_output_inside_the_checkpoint_by_a_link",
        (
            "write/refusals.py",
            "    here, inside = real(output),",
            "    here, inside = os.path.abspath(output),",
        ),
    ),
    Mutation(
        "an output in the checkpoint is refused",
        "cli/test_bad_input.py::test_an_output_inside_the_checkpoint",
        (
            "write/refusals.py",
            "    if is_within(here, inside):\n",
            "    if False:\n",
        ),
    ),
    Mutation(
        "what failed before anything was worth keeping leaves nothing",
        "whole/test_resume.py::test_nothing_worth_continuing_leaves_nothing",
        (
            "write/staging_folder.py",
            "if published or not keep:",
            "if published:",
        ),
    ),
    Mutation(
        "a plan that broke leaves nothing to break again",
        "whole/test_resume.py::test_a_finished_file_is_compared_with_the_plan",
        ("write/stage.py", " and not isinstance(error, (PlanBroken, WrongNames))\n", "\n"),
    ),
    Mutation(
        "counts of overflows survive an interruption",
        "whole/test_resume.py::test_overflow_counts_survive",
        (
            "write/part.py",
            "self.facts: dict[str, Any] = before.facts.get(name, {}) if self.start > begin else {}",
            "self.facts: dict[str, Any] = {}",
        ),
    ),
    Mutation(
        "warnings about replicas that differ survive an interruption",
        "whole/test_resume.py::test_warnings_of_drift_survive",
        ("write/journal.py", 'warnings=tuple(record["warnings"])', "warnings=()"),
    ),
    Mutation(
        "who wishes for another check gets it, though work be there",
        "whole/test_resume.py::test_another_check_is_made_anew",
        ("outputs/checks.py", "    if known is not None and known.how == how:\n", "    if known is not None:\n"),
    ),
    Mutation(
        "short writes go on",
        "run/test_io.py::test_writes_go_on_after_a_short_one",
        (
            "run/local_output.py",
            "            view, start = view[done:], start + done\n",
            "            view = view[len(view):]\n",
        ),
    ),
    Mutation(
        "short reads go on",
        "run/test_io.py::test_reads_go_on_after_a_short_one",
        ("run/descriptors.py", "        done += got\n", "        done = len(buffer)\n"),
    ),
    Mutation(
        "an input that ends early is noticed",
        "run/test_io.py::test_an_input_that_ends_early",
        (
            "run/local_output.py",
            "        if not got and os.fstat(opened.fd).st_size < file_start + size_bytes:\n",
            "        if False:\n",
        ),
        (
            "run/local.py",
            "        if got < len(buffer):\n            raise",
            "        if False:\n            raise",
        ),
    ),
    Mutation(
        "a descriptor is not closed under a reader",
        "run/test_plug_in.py::test_threads_share_files_though_few_may_be_open",
        (
            "run/local.py",
            "                known_as, left = self._open.popitem(last=False)\n",
            "                known_as, left = self._open.popitem(last=False)\n                left.close()\n",
        ),
    ),
    Mutation(
        "what is no copy is not read as one",
        "run/test_plug_in.py::test_a_recipe_without_a_reader_is_refused",
        ("run/reader.py", "    if not recipe.is_copied:\n", "    if False:\n"),
    ),
    Mutation(
        "a recipe that went to another process finds its reader",
        "run/test_plug_in.py::test_a_recipe_that_went_to_another_process_finds_its_reader",
        ("adapters/__init__.py", "from . import registered", "import os"),
    ),
    Mutation(
        "a digest that failed in the background stops the conversion",
        "run/test_plug_in.py::test_an_output_that_cannot_be_read_back_has_no_digest",
        ("run/digest.py", "            self._error = error\n", "            pass\n"),
    ),
    Mutation(
        "what a run shares is closed, the last one first",
        "run/test_plug_in.py::test_resources_are_made_once_and_closed_the_last_one_first",
        ("run/inputs.py", "            self._closing.callback(made.close)\n", ""),
    ),
    Mutation(
        "a run keeps two readers, not all",
        "run/test_plug_in.py::test_the_last_two_readers_of_rows_are_kept",
        ("run/composed.py", "*self._kept[-1:]", "*self._kept"),
    ),
)
