"""The tables of `tools/mutations` fit the code: each text is there, once, and the tests that must notice exist."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest
from command import REPOSITORY
from mutations.run import mutations

if TYPE_CHECKING:
    from mutations.mutation import Mutation


@pytest.mark.parametrize("mutation", mutations(), ids=lambda mutation: mutation.protection)
def test_the_protection_is_where_the_table_says(mutation: Mutation):
    texts: dict[str, str] = {}
    for edit in mutation.edits:
        text = texts.setdefault(edit.file, (REPOSITORY / "zeroconsolidate" / edit.file).read_text())
        assert text.count(edit.old) == 1, f"{edit.file}: {edit.old!r}"
        texts[edit.file] = text.replace(edit.old, edit.new)
    for text in texts.values():
        ast.parse(text)
    for test in mutation.tests:
        file, *names = test.split("::")
        tree = ast.parse((REPOSITORY / file).read_text())
        for name in names:
            found = [n for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name == name]
            assert found, test
            tree = found[0]


def test_each_protection_has_one_name():
    named = [mutation.protection for mutation in mutations()]
    assert len(set(named)) == len(named) > 250
