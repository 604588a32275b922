"""Parts of a conversion on several machines: nothing that was not written is taken for written."""

from __future__ import annotations

from .mutation import Mutation

TESTS = "whole/test_parts.py"
PORTION = "write/portion.py"
SHARES = "write/shares.py"
WORKERS = "whole/test_executors.py"

MUTATIONS = (
    Mutation(
        "a part that is not begun is missed",
        f"{TESTS}::TestRefused::test_parts_that_are_not_there",
        (
            SHARES,
            "            if stretches:\n                lacking.append",
            "            if False:\n                lacking.append",
        ),
    ),
    Mutation(
        "a part that is half written is missed",
        f"{TESTS}::test_an_interrupted_part_goes_on_where_it_was",
        (SHARES, "        if made < whole:\n", "        if False:\n"),
    ),
    Mutation(
        "journals of parts count only for the conversion that they were written for",
        f"{TESTS}::TestRefused::test_journals_of_an_earlier_conversion",
        (SHARES, "        if progress is None or progress.token != token:\n", "        if progress is None:\n"),
        (PORTION, "        if journal.progress.token != token:\n", "        if journal.progress.token is None:\n"),
    ),
    Mutation(
        "a staged file that has gone is never made again",
        f"{TESTS}::TestRefused::test_a_staged_file_that_is_not_as_it_was",
        (
            PORTION,
            "            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)\n",
            "            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)\n            os.ftruncate(fd, size_bytes)\n",
        ),
    ),
    Mutation(
        "staged files are made before the journal says that they are there",
        f"{TESTS}::test_they_make_what_one_command_makes",
        (PORTION, "            self._make_files()\n            _appear", "            _appear"),
    ),
    Mutation(
        "the number of parts decides what is continued",
        f"{TESTS}::TestRefused::test_another_number_of_parts",
        ("write/fingerprint.py", '{} if parts is None else {"count": parts}', '{} if parts is None else {"count": 1}'),
    ),
    Mutation(
        "who finishes waits for parts that are being written",
        f"{TESTS}::test_parts_at_the_same_time_one_of_them_killed",
        (PORTION, '"lock"), shared=True)', '"lock.shared"), shared=True)'),
    ),
    Mutation(
        "one process at a time writes a part",
        f"{TESTS}::test_parts_at_the_same_time_one_of_them_killed",
        (PORTION, 'self._part)}.lock")\n', 'self._part)}.lock", shared=True)\n'),
    ),
    Mutation(
        "what parts have written stays if the last check fails",
        f"{TESTS}::TestRefused::test_what_a_loader_would_not_load",
        ("write/stage.py", "            worth_keeping = True  #", "            pass  #"),
    ),
    Mutation(
        "a part that finds its input changed does not count",
        f"{TESTS}::TestRefused::test_a_checkpoint_that_changes_meanwhile",
        (
            "outputs/parts.py",
            "            refuse_changed(traits, start_over=start_over(portion.folder), places=options.places)\n",
            "",
        ),
    ),
    Mutation(
        "overflows of all parts are counted",
        f"{TESTS}::test_overflows_of_all_parts_are_counted",
        ("run/counts.py", "counted.get(name, 0) + more", "more"),
    ),
    Mutation(
        "an element is not cut in two",
        "plan/test_stretches.py::test_a_cut_lies_where_no_page_is_shared",
        (
            "plan/stretches.py",
            "    return cut - (cut - file.starts[index]) % file.tensors[index].dtype.itemsize\n",
            "    return cut\n",
        ),
    ),
    Mutation(
        "a file with a checksum of its bytes is not cut",
        "plan/test_stretches.py::test_parts_are_every_byte_once",
        ("plan/stretches.py", "    if isinstance(file, FragmentPlan):\n", "    if False:\n"),
    ),
    Mutation(
        "a task that is lost is given out again",
        f"{WORKERS}::TestLostWorkers::test_tasks_are_given_out_again",
        (
            "outputs/spread.py",
            "                    waiting.append(task)\n                    if isinstance(error, BrokenExecutor)",
            "                    if isinstance(error, BrokenExecutor)",
        ),
    ),
    Mutation(
        "what was under way in an executor that broke is given out again",
        f"{WORKERS}::TestLostWorkers::test_one_is_killed",
        ("outputs/spread.py", "        return lost\n", "        return []\n"),
    ),
    Mutation(
        "a task that is lost every time ends the conversion",
        f"{WORKERS}::TestLostWorkers::test_executors_that_break_every_time",
        ("outputs/spread.py", " or self._in_vain >= _ATTEMPTS:", ":"),
    ),
    Mutation(
        "what one process writes afresh is no longer what workers have made",
        "write/test_journal.py::test_what_workers_made_is_forgotten_before_it_is_cut_off",
        ("write/stage.py", "            if name in self._journal.progress.stretches:\n", "            if False:\n"),
    ),
    Mutation(
        "a complete file that was cut is not complete again when it is as long as it was",
        f"{WORKERS}::test_a_complete_file_that_was_cut_is_never_taken_for_complete_again",
        (
            "write/journal.py",
            "(self.upto, self.facts, self.stretches, self.done)",
            "(self.upto, self.facts, self.stretches)",
        ),
    ),
    Mutation(
        "stretches of a file that was taken away do not count",
        f"{WORKERS}::TestGoingOn::test_with_workers_and_without",
        ("write/spread.py", "        if there < least or ", "        if "),
    ),
    Mutation(
        "a task of a conversion that was thrown away does nothing",
        f"{WORKERS}::TestLate::test_it_was_started_over",
        ("write/staging_folder.py", "        spread.drop_plan(self.path)\n", ""),
    ),
    Mutation(
        "starting over waits for workers that are opening files",
        f"{WORKERS}::TestLate::test_starting_over_waits_for_who_opens_files",
        ("outputs/tasks.py", 'TASKS, "lock"), shared=True)', 'TASKS, "lock.shared"), shared=True)'),
    ),
    Mutation(
        "a worker runs the plan that its task was cut from",
        f"{WORKERS}::TestLate::test_another_plan_of_that_name",
        ("outputs/tasks.py", "    if hashlib.sha256(data).hexdigest() != digest:\n", "    if False:\n"),
    ),
    Mutation(
        "a worker of another version does nothing",
        f"{WORKERS}::TestLate::test_another_version",
        ("outputs/tasks.py", "    if task.version != __version__:\n", "    if False:\n"),
    ),
)
