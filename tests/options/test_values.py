"""What the values of options mean: sizes."""

from __future__ import annotations

import pytest

from zeroconsolidate import options
from zeroconsolidate.errors import BadOption


@pytest.mark.parametrize(("text", "size"), [
    ("5GB", 5 * 10**9), ("1.5 kb", 1500), (7, 7), ("12b", 12), ("0.5TB", 5 * 10**11), ("5GiB", 5 << 30),
    ("1.25 MiB", 5 << 18), ("1kib", 1024), ("2TiB", 2 << 40),
])  # fmt: skip
def test_sizes_are_in_powers_of_1000_or_of_1024(text: str | int, size: int):
    assert options.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0B", "-1", "-1GB", "5XB", "5G", "0.1B", "1.MB"])
def test_texts_that_are_no_sizes(text: str):
    with pytest.raises(BadOption, match="a size is a number with B, KB, MB, GB or TB"):
        options.parse_size(text)


@pytest.mark.parametrize("text", ["5", "0", "1.5"])
def test_a_text_without_a_unit_is_no_size(text: str):
    """Of the files of five bytes nobody means, there would be one for each tensor."""
    with pytest.raises(BadOption, match=rf"a size needs a unit; expected {text[0]}GB or {text[0]}GiB, for example"):
        options.parse_size(text)
