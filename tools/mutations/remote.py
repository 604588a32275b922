"""Object stores: what comes is what was asked for, and a store that fails says nothing about the checkpoint."""

from __future__ import annotations

from .mutation import Mutation

AHEAD, WHOLE = "run/test_remote.py", "whole/test_object_stores.py"
STORES = "integrations/object_stores.py"
OUTAGE = f"{WHOLE}::TestErrors::test_an_outage_is_not_taken_for_damage"

MUTATIONS = (
    Mutation(
        "an answer that is too short is noticed",
        f"{AHEAD}::TestErrors::test_bytes_that_are_missing_are_noticed",
        (STORES, "            if len(data) != stop - start:\n", "            if False:\n"),
    ),
    Mutation(
        "what a store refuses is not asked for again",
        f"{AHEAD}::TestErrors::test_what_is_refused_is_not_tried_again",
        (STORES, "code in _REFUSED or isinstance(error, PermissionError)", "code in _REFUSED"),
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
        ("write/fingerprint.py", '    look_anew(before["source"])\n', ""),
    ),
    Mutation(
        "what is read ahead is bounded",
        f"{AHEAD}::TestAhead::test_no_more_is_requested_than_the_window_holds",
        ("run/remote.py", "self._held_bytes + _BATCH_BYTES <= WINDOW_BYTES", "True"),
    ),
)
