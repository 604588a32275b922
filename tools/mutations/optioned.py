"""What options may be, and that each is declared once."""

from __future__ import annotations

from .mutation import Mutation

VALUES = "options/test_verbs.py::TestValues"
WRONG = f"{VALUES}::test_what_is_none_is_refused_before_anything_is_read"
ONE_PLACE = "options/test_declarations.py::TestOnePlace"

MUTATIONS = (
    Mutation(
        "a model that is read is not replaced",
        "cli/test_refused_at_once.py::TestAtOnce::test_an_output_that_is_read",
        (
            "write/refusals.py",
            '    if same is not None:\n        raise BadOption(\n            f"the output',
            '    if False:\n        raise BadOption(\n            f"the output',
        ),
    ),
    Mutation(
        "an unknown keyword is a BadOption",
        "options/test_declarations.py::TestWhatIsThere::test_an_unknown_keyword_names_the_nearest",
        ("options/keywords.py", "            if name not in declared:\n", "            if False:\n"),
    ),
    Mutation(
        "a value that is none of the choices is refused",
        WRONG,
        ("options/declaration.py", "if self.choices and value not in self.choices:", "if False:"),
    ),
    Mutation(
        "a switch takes no text",
        WRONG,
        ("options/declaration.py", 'said["choices"] = (False, True)\n', "pass\n"),
    ),
    Mutation(
        "one pattern is not a sequence of letters",
        f"{VALUES}::test_one_text_is_not_a_sequence_of_letters {VALUES}::test_one_pattern_chooses_what_it_matches",
        ("options/declaration.py", "        if isinstance(value, (str, os.PathLike)):\n", "        if False:\n"),
    ),
    Mutation(
        "one dtype has one name in a manifest",
        "options/test_verbs.py::TestDtype::test_torchs_dtype_makes_the_same_bytes",
        ("options/convert.py", '        object.__setattr__(self, "dtype", dtype_name(self.dtype))\n', ""),
    ),
    Mutation(
        "what decides bytes is recorded, wherever it is declared",
        f"{ONE_PLACE}::test_it_is_recorded_if_it_decides_bytes",
        ("options/common.py", 'if declared.decides != "nothing":', 'if declared.decides == "tensors":'),
    ),
    Mutation(
        "a hub id is looked up once",
        "options/test_verbs.py::TestBase::test_it_is_looked_up_when_it_is_needed_and_once",
        (
            "options/convert.py",
            '    @cached_property\n    def base_directory(self) -> str | None:\n        """`base` as a directory: a hub id',
            '    @property\n    def base_directory(self) -> str | None:\n        """`base` as a directory: a hub id',
        ),
    ),
    Mutation(
        "nothing is looked up before it is needed",
        "options/test_verbs.py::TestBase::test_it_is_looked_up_when_it_is_needed_and_once",
        (
            "options/convert.py",
            "        Opening.__post_init__(self)\n        object",
            "        Opening.__post_init__(self)\n        self.plain()\n        object",
        ),
    ),
)
