"""What keeps saves, models and trainings from harm while they are listed, pruned and followed."""

from __future__ import annotations

from .mutation import Mutation

SAVES = "saves/test_saves.py"
PRUNE = "saves/test_prune.py"
WATCH = "training/test_watch.py"
BACKGROUND = "training/test_background.py"

MUTATIONS = (
    Mutation(
        "the model of one save does not replace that of another",
        f"{WATCH}::test_two_saves_of_one_step_do_not_share_a_directory",
        ("training/places.py", "    if first != name:\n", "    if False:\n"),
    ),
    Mutation(
        "a save whose only model is quantized keeps its weights",
        f"{PRUNE}::test_a_quantized_model_keeps_its_save",
        ("api/pruning.py", "    if planned.model is not None and _is_quantized(planned.model):\n", "    if False:\n"),
    ),
    Mutation(
        "what a Trainer needs beside DeepSpeed's files is asked for",
        f"{SAVES}::TestTrainer::test_what_lies_beside_deepspeeds_files",
        ("saves/judge.py", "needed += [name for name in (_TRAINER_STATE,) if name not in there]", "pass"),
    ),
    Mutation(
        "a save without optimizer files is opened before it is called complete",
        f"{PRUNE}::TestCutOff::test_no_save_looks_whole",
        ("saves/run.py", " and any(map(judge.is_optimizer, listing.states))", ""),
    ),
    Mutation(
        "the best save stays",
        f"{PRUNE}::TestNeverTouched::test_the_best_one",
        ("saves/pruning.py", "for name in (run.best,)", "for name in ()"),
    ),
    Mutation(
        "a save that may be of another training stays",
        f"{PRUNE}::TestNeverTouched::test_other_trainings_in_the_same_directory",
        ("saves/pruning.py", "elif not is_a_step(save.name):", "elif False:"),
    ),
    Mutation(
        "the save that latest names stays",
        f"{PRUNE}::TestNeverTouched::test_what_latest_names",
        ("saves/pruning.py", "for name in (run.latest,)", "for name in ()"),
    ),
    Mutation(
        "a save that is written again stays",
        f"{PRUNE}::TestNeverTouched::test_one_that_is_written_again",
        ("saves/pruning.py", "elif listing.changed_ns > changed_ns:", "elif False:"),
    ),
    Mutation(
        "a save that changed while it was verified stays",
        f"{PRUNE}::TestNeverTouched::test_one_that_is_written_while_it_is_verified",
        ("api/pruning.py", "if now is None or now.signature != listing.signature:", "if False:"),
    ),
    Mutation(
        "a model is verified before its save is pruned",
        f"{PRUNE}::test_a_model_that_differs_keeps_its_save",
        ("api/pruning.py", "    if found.problems:\n", "    if False:\n"),
    ),
    Mutation(
        "the first rank's file goes first",
        f"{PRUNE}::TestCutOff::test_no_save_looks_whole",
        ("saves/pruning.py", "key=by_rank))", "key=by_rank, reverse=True))"),
    ),
    Mutation(
        "a whole save loses its name before its files",
        f"{PRUNE}::TestCutOff::test_a_whole_checkpoint_loses_its_name_first",
        ("saves/removal.py", "            os.rename(folder, hidden)\n", "            hidden = folder\n"),
    ),
    Mutation(
        "latest is waited for",
        f"{WATCH}::test_latest_is_waited_for",
        ("training/settling.py", "return State.READY if is_named or", "return State.READY if True or"),
    ),
    Mutation(
        "a half-written save is waited for",
        f"{WATCH}::test_a_half_written_one_is_waited_for",
        ("training/settling.py", "if seen.examined.problem is not None or seen.examined.missing:", "if False:"),
    ),
    Mutation(
        "a save that was written again is converted again",
        f"{WATCH}::test_a_training_that_is_started_again_passes_the_same_step",
        ("training/places.py", "        return record.made == signature_of(listing)\n", "        return True\n"),
    ),
    Mutation(
        "what is staged of an earlier save of the same name is thrown away",
        f"{WATCH}::test_a_save_that_changed_while_its_conversion_lay_interrupted",
        ("training/making.py", "restart=record.begun not in (None, signature),", "restart=False,"),
    ),
    Mutation(
        "nothing is left of the model of a save that has gone",
        f"{WATCH}::test_one_that_is_rotated_away_while_it_is_read",
        ("training/making.py", "            _clear(output)\n", ""),
    ),
    Mutation(
        "only models with a record are removed",
        f"{WATCH}::test_only_so_many_models_are_kept",
        (
            "training/places.py",
            "    removed = models[:-keep]\n",
            "    removed = [m for m in os.scandir(parent)][:-keep]\n",
        ),
    ),
    Mutation(
        "a conversion in the background takes itself for no rank",
        f"{BACKGROUND}::test_it_sees_no_accelerator_and_is_no_rank",
        ("training/background.py", "if name not in _OF_THE_TRAINING}", "}"),
    ),
    Mutation(
        "a conversion in the background sees no accelerator",
        f"{BACKGROUND}::test_it_sees_no_accelerator_and_is_no_rank",
        ("training/background.py", "return kept | _WITHOUT_ACCELERATORS | ", "return kept | "),
    ),
)
