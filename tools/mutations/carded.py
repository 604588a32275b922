"""A model card says what is known, of the right model, and is nobody's own that is lost."""

from __future__ import annotations

from .mutation import Mutation

CARD = "outputs/test_model_card.py"
THERE = f"{CARD}::TestWhereThereIsOne"
ADAPTERS = f"{CARD}::TestAdapters"

MUTATIONS = (
    Mutation(
        "a card that was edited stays where a model is replaced",
        f"{THERE}::test_overwriting_replaces_ours_and_leaves_theirs",
        ("outputs/card_facts.py", "options.overwrite and directory and _is_someones(directory)", "False"),
    ),
    Mutation(
        "a card that was not edited does not describe the model before",
        f"{THERE}::test_overwriting_replaces_ours_and_leaves_theirs",
        ("outputs/card_facts.py", ".hexdigest() != listed)", ".hexdigest() != 0)"),
    ),
    Mutation(
        "what loads no model has no card that says so",
        f"{THERE}::test_none_without_a_model_that_loads",
        ("outputs/model.py", "if self.loads and is_wanted(", "if is_wanted("),
    ),
    Mutation(
        "another base is not called the recorded one",
        f"{ADAPTERS}::test_another_base_is_not_the_recorded_one",
        ("outputs/card_facts.py", "[] if options.base_differs else [", "["),
    ),
    Mutation(
        "a card says what was lost",
        f"{CARD}::TestModels::test_what_was_rescued",
        ("outputs/card_facts.py", "        rescue=opened.report,\n", "        rescue=None,\n"),
    ),
    Mutation(
        "a card names no folder of the machine",
        f"{CARD}::TestModels::test_it_says_nothing_of_this_machine",
        ("options/flags_of.py", "else os.path.basename(os.path.normpath(path))", "else path"),
    ),
    Mutation(
        "what a checkpoint calls its base does not leave its line of a card",
        f"{CARD}::test_yaml_reads_back_what_was_said",
        ("outputs/model_card.py", "c if c.isprintable() and c not in", "c if c not in"),
    ),
    Mutation(
        "a value like a flag is not a flag of a card's command",
        f"{CARD}::test_the_command_means_the_same_options",
        ("options/flags_of.py", 'if text.startswith("-") else', "if False else"),
    ),
    Mutation(
        "a card may be edited, nothing else",
        f"{THERE}::test_verify_does_not_let_others_be_edited",
        (
            "audit/output.py",
            'if name == CARD and size_bytes != entry.get("bytes")',
            'if size_bytes != entry.get("bytes")',
        ),
    ),
)
