"""The events on the page of each language are those that the code declares, and both pages say the same."""

from __future__ import annotations

import re

import events_table
import pytest
from events_table import ENGLISH, LANGUAGES, Language, description, in_chinese, page_with
from events_zh import CHINESE

from common.log.events import DECLARED, Event
from common.log.schema import keys

EVERY_PAGE = pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.page.name)
CHINESE_PAGE = LANGUAGES[1]


@EVERY_PAGE
def test_a_page_describes_the_events_as_they_are_declared(language: Language) -> None:
    """Else: python tests/docs/events_table.py"""
    page = language.page.read_text(encoding="utf-8")
    assert page == page_with(page, description(language))


def section_of(language: Language, event: str) -> str:
    found = re.search(rf"^### {event}\n(.*?)(?=^### |\Z)", description(language), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


@EVERY_PAGE
@pytest.mark.parametrize("kind", DECLARED.values(), ids=DECLARED)
def test_every_key_of_an_event_is_in_its_section(kind: type[Event], language: Language) -> None:
    named = re.findall(r"^\| (`.*?`) \|", section_of(language, kind.event), re.MULTILINE)
    found = " ".join(named).replace("`", "").split()
    assert {key for key in found if "." not in key} == keys(kind)
    assert len(set(found)) == len(found)


@EVERY_PAGE
def test_every_event_is_in_the_first_table(language: Language) -> None:
    assert re.findall(r"^\| \[`(\w+)`\]\(#\1\) \|", description(language), re.MULTILINE) == list(DECLARED)


def test_a_section_reads_as_it_should() -> None:
    """With a choice, an object in a list, a group that may be missing, and a pipe that is no cell's end."""
    ranks = section_of(ENGLISH, "ranks").splitlines()
    assert "| `status` | text | `ok`, `oom` or `error` |" in ranks
    assert (
        "| `shares[].samples_ms` | list of numbers | each the time of so many calls, synchronised on both sides |"
        in ranks
    )
    assert ranks.index("Where it is ok, also:") > ranks.index(
        "| `shares` | list of objects | what each rank measured |"
    )
    assert "| `relative_l2` | number or null | `\\|\\|y - r\\|\\| / \\|\\|r\\|\\|`, a fraction |" in section_of(
        ENGLISH, "sample"
    )
    assert "| `status` | 文本 | `ok`、`oom` 或 `error` |" in section_of(CHINESE_PAGE, "ranks")


def test_every_row_has_three_cells_and_no_other_line_is_too_long() -> None:
    for language in LANGUAGES:
        for line in description(language).splitlines():
            if line.startswith("|"):
                assert line.replace("\\|", "").count("|") == 4, line
            else:
                assert len(line) <= 120, line


def test_both_languages_name_the_same_code_in_the_same_places() -> None:
    lines = [description(language).splitlines() for language in LANGUAGES]
    tables = [[line for line in each if line.startswith(("|", "#"))] for each in lines]
    assert len(tables[0]) > 200
    for english, chinese in zip(*tables, strict=True):
        assert sorted(re.findall(r"`[^`]+`", english)) == sorted(re.findall(r"`[^`]+`", chinese))


def test_the_chinese_words_are_those_that_are_needed() -> None:
    needed = set()

    def say(text: str) -> str:
        needed.add(text)
        return in_chinese(text)

    description(CHINESE_PAGE._replace(say=say))
    assert {text for text in needed if not events_table.CODE_ALONE.fullmatch(text)} == set(CHINESE)


def test_what_stands_around_the_markers_is_kept() -> None:
    page = "# Log\n\n<!-- events:begin -->\nold\n<!-- events:end -->\n\nMore.\n"
    written = page_with(page, "new\n")
    assert written == "# Log\n\n<!-- events:begin -->\n\nnew\n\n<!-- events:end -->\n\nMore.\n"
    assert page_with(written, "new") == written
    with pytest.raises(SystemExit):
        page_with("# Log\n", "new")
