"""Paths and URLs as text."""

from __future__ import annotations

import os

import pytest

from zeroconsolidate.errors import BadOption
from zeroconsolidate.options.urls import absolute, is_url, normal, plain, real


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("s3://bucket/run", True), ("S3://bucket/run", True), ("hf://owner/model@main", True), ("abfss://c@a/x", True),
        ("file:///run", False), ("run", False), ("./s3://x", False), ("C:/x", False), ("a:/b", False), ("", False),
    ],
)  # fmt: skip
def test_what_is_a_url(given: str, expected: bool):
    assert is_url(given) is expected


def test_a_file_url_is_a_path():
    assert plain("file:///a/b%20c") == "/a/b c"
    assert plain("file://localhost/a") == "/a"
    with pytest.raises(BadOption, match="names a file of this machine"):
        plain("file://elsewhere/a")


def test_what_says_nothing_is_left_out():
    assert normal("s3://bucket//a/./b/") == "s3://bucket/a/b"
    assert normal("a//b/../c") == "a/c"
    assert real("s3://bucket/a/") == absolute("s3://bucket/a") == "s3://bucket/a"
    assert absolute("a") == os.path.join(os.getcwd(), "a")


@pytest.mark.parametrize("url", ["s3://bucket/a/../b", "s3://", "s3:///"])
def test_a_url_of_no_directory_is_refused(url: str):
    with pytest.raises(BadOption, match="names no directory"):
        normal(url)
