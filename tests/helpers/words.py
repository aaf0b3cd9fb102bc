"""Texts in the languages of the pages."""

from __future__ import annotations

import re

from common.log.conclusions import Words


def in_both(words: Words, english: str) -> None:
    """The English is as wanted, and the Chinese has the same figures and names."""
    assert words.en == english
    assert re.search(r"[\u4e00-\u9fff]", words.zh)
    for pattern in (r"\d[\d.e+-]*%?", r"blocks\.\d"):
        assert sorted(re.findall(pattern, words.zh)) == sorted(re.findall(pattern, words.en))
