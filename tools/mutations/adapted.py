"""Adapters: their base, their rows, their kinds, and what lies beside them."""

from __future__ import annotations

from .mutation import Mutation

BASE = "adapters/test_base_agreement.py"
BESIDE = "adapters/test_beside.py::TestSeveralModels"

MUTATIONS = (
    Mutation(
        "another base is refused",
        f"{BASE}::TestConversion::test_insisted",
        ("adapters/base.py", "    if found.contradictions and not insisted:\n", "    if False:\n"),
    ),
    Mutation(
        "rows that are lost are not made up",
        "adapters/test_vocabulary.py::test_one_trained",
        ("adapters/vocabulary.py", "    if len(counts) > 1 and is_resized:\n", "    if False:\n"),
    ),
    Mutation(
        "config.json follows the rows",
        "adapters/test_vocabulary.py::test_both_trained",
        ("outputs/side_files.py", "text = with_vocabulary(text, planned.adapted.rows)\n", "pass\n"),
    ),
    Mutation(
        "a configuration without its adapter is refused",
        "adapters/test_kinds.py::test_a_configuration_of_another_run",
        ("adapters/find.py", "        _refuse_unknown(first.peft_type, present)\n", "        pass\n"),
    ),
    Mutation(
        "one of two PEFT models is not written over the other",
        f"{BESIDE}::test_two_are_refused",
        ("adapters/wrapping.py", "    if len(models) > 1:\n", "    if False:\n"),
    ),
    Mutation(
        "nor one of two tensors",
        f"{BESIDE}::test_two_tensors_of_one_name",
        ("adapters/beside.py", "    if known.name != source.name:\n", "    if False:\n"),
    ),
    Mutation(
        "diffusers finds its weights",
        "outputs/test_diffusers.py::test_one_file",
        ("outputs/planned.py", "        name=_file_name(catalog.origin.root, options.base_directory),\n", ""),
    ),
)
