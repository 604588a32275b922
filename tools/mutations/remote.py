"""Object stores: what comes is what was asked for, and a store that fails says nothing about the checkpoint."""

from __future__ import annotations

from .mutation import Mutation

AHEAD, WHOLE = "run/test_remote.py", "whole/test_object_stores.py"
STORE, CALLS = "integrations/store.py", "integrations/store_calls.py"
OUTAGE = f"{WHOLE}::TestErrors::test_an_outage_is_not_taken_for_damage"

MUTATIONS = (
    Mutation(
        "an answer that is too short is noticed",
        f"{AHEAD}::TestErrors::test_bytes_that_are_missing_are_noticed",
        (STORE, "            if len(data) != stop - start:\n", "            if False:\n"),
    ),
    Mutation(
        "what a store refuses is not asked for again",
        f"{AHEAD}::TestErrors::test_what_is_refused_is_not_tried_again",
        (CALLS, "code in _REFUSED or isinstance(error, PermissionError)", "code in _REFUSED"),
    ),
    Mutation(
        "an outage of the store is not a missing file",
        OUTAGE,
        (
            "opening/open.py",
            "    except StoreFailed:\n        raise\n    except ZeroConsolidateError:\n        return False\n",
            "    except ZeroConsolidateError:\n        return False\n",
        ),
    ),
    Mutation(
        "an outage of the store does not choose another save",
        OUTAGE,
        (
            "saves/metadata.py",
            "    except StoreFailed:\n        raise\n",
            "",
        ),
    ),
    Mutation(
        "a file in a store must not change while it is read",
        f"{WHOLE}::TestErrors::test_a_checkpoint_that_changes_while_it_is_read",
        ("archive/places.py", '"is": found.identity}', '"is": ""}'),
    ),
    Mutation(
        "stores are asked again before an output gets its name",
        f"{WHOLE}::TestErrors::test_a_checkpoint_that_changes_while_it_is_read",
        ("write/fingerprint.py", "    look_anew(paths)\n    for path, looks", "    for path, looks"),
    ),
    Mutation(
        "nothing in a store is overwritten unasked",
        f"{WHOLE}::TestOutput::test_convert",
        ("write/remote_publish.py", "    if there:\n", "    if False:\n"),
    ),
    Mutation(
        "the size of what a store has is compared",
        f"{WHOLE}::TestOutput::test_a_store_that_has_another_file",
        ("write/remote_publish.py", "            if there[name] != sizes[name]:\n", "            if False:\n"),
    ),
    Mutation(
        "what was uploaded is continued, and its fingerprint compared",
        f"{WHOLE}::TestOutput::test_an_interrupted_conversion_with_other_options",
        (
            "write/remote_stage.py",
            '            refuse_other(progress.fingerprint, self._fingerprint, f"{self.output}/{STAGING}")\n',
            "",
        ),
    ),
    Mutation(
        "--abort removes what is staged in a store",
        f"{WHOLE}::TestOutput::test_abort_removes_what_is_staged_and_nothing_else",
        (
            "write/remote_publish.py",
            '    uploads.remove(f"{output}/{STAGING}/{name}" for name in left if name != JOURNAL)\n',
            "",
        ),
    ),
    Mutation(
        "what is read ahead is bounded",
        f"{AHEAD}::TestAhead::test_no_more_is_requested_than_the_window_holds",
        (
            "run/remote.py",
            "if piece.data is None and self._held_bytes + piece.stop - piece.start > WINDOW_BYTES:",
            "if False:",
        ),
    ),
)
