"""Parts of a conversion on several machines: nothing that was not written is taken for written."""

from __future__ import annotations

from .mutation import Mutation

TESTS = "whole/test_parts.py"
PORTION = "write/portion.py"

MUTATIONS = (
    Mutation(
        "a part that is not begun is missed",
        f"{TESTS}::TestRefused::test_parts_that_are_not_there",
        (
            PORTION,
            "            if stretches:\n                lacking.append",
            "            if False:\n                lacking.append",
        ),
    ),
    Mutation(
        "a part that is half written is missed",
        f"{TESTS}::test_an_interrupted_part_goes_on_where_it_was",
        (PORTION, "        if made < whole:\n", "        if False:\n"),
    ),
    Mutation(
        "journals of parts count only for the conversion that they were written for",
        f"{TESTS}::TestRefused::test_journals_of_an_earlier_conversion",
        (PORTION, "        if progress is None or progress.token != token:\n", "        if progress is None:\n"),
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
        ("outputs/parts.py", "            refuse_changed(traits, start_over=start_over(portion.folder))\n", ""),
    ),
    Mutation(
        "overflows of all parts are counted",
        f"{TESTS}::test_overflows_of_all_parts_are_counted",
        ("outputs/gathered.py", "overflows.get(name, 0) + count", "count"),
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
)
