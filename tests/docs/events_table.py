"""The docs' description of the log's events, made from their declarations: python tests/docs/events_table.py

A table of all events, and a section of each with a table of its fields, stand between two markers in the page of each
language. The declarations are English; `events_zh.py` has their words in Chinese.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

sys.path.insert(0, str(Path(__file__).parents[2]))

from events_zh import CHINESE

from common.log.events import DECLARED, SCRIPTS, Event
from common.log.schema import Integers, Member, Numbers, members

ROOT = Path(__file__).parents[2]
CODE_ALONE = re.compile(r"`[^`]+`")
BEGIN, END = "<!-- events:begin -->", "<!-- events:end -->"


class Language(NamedTuple):
    """How a page speaks."""

    page: Path
    say: Callable[[str], str]  # an English text of the declarations or of this file
    also: str  # introduces fields that are there in some cases


def in_chinese(text: str) -> str:
    return text if CODE_ALONE.fullmatch(text) else CHINESE[text]


ENGLISH = Language(ROOT / "docs" / "log.md", lambda text: text, "{0}, also:")
LANGUAGES = (ENGLISH, Language(ROOT / "docs" / "log.zh-CN.md", in_chinese, "{0}，另有："))


class Row(NamedTuple):
    """One field, or several alike."""

    keys: tuple[str, ...]
    kind: str
    meaning: str


# -------------------------------------------------------------------------------------------------- what is declared
def tables_of(declaration: Any, say: Callable[[str], str]) -> Iterator[tuple[str, list[Row]]]:
    """The fields of every record of an event, and those of each group that may be missing with the case that has it."""
    always, groups = [], []
    for member in members(declaration):
        if member.flat and member.omittable:
            groups.append((member.meaning, rows_of(member.kind, say)))
        else:
            always += rows_of_member(member, say)
    yield "", always
    yield from groups


def rows_of(declaration: Any, say: Callable[[str], str]) -> list[Row]:
    return [row for member in members(declaration) for row in rows_of_member(member, say)]


def rows_of_member(member: Member, say: Callable[[str], str]) -> list[Row]:
    """A field, and behind it those of the objects that it holds; of a group its fields."""
    if member.flat:
        note = in_words(member, say)
        return [row._replace(meaning=joined(row.meaning, note, say)) for row in rows_of(member.kind, say)]
    many = get_origin(member.kind) is list
    inner = get_args(member.kind)[0] if many else member.kind
    rows = [Row((member.key,), kind_of(member, say), in_words(member, say))]
    if is_dataclass(inner):
        path = f"{member.key}[]." if many else f"{member.key}."
        rows += [row._replace(keys=tuple(path + key for key in row.keys)) for row in rows_of(inner, say)]
    return rows


def in_words(member: Member, say: Callable[[str], str]) -> str:
    """The choices and the meaning of a field."""
    meaning, choices = member.meaning, ""
    if member.one_of:
        meaning = meaning.removeprefix(str(member.one_of)).removeprefix("; ")
        *others, last = (f"`{choice}`" for choice in member.one_of.choices)
        choices = say(" or ").join([say(", ").join(others), last])
    return joined(choices, say(meaning) if meaning else "", say)


def joined(first: str, second: str, say: Callable[[str], str]) -> str:
    return say("; ").join(filter(None, (first, second)))


def kind_of(member: Member, say: Callable[[str], str]) -> str:
    """The type of a field in the words of JSON."""
    kind, nullable = without_none(member.kind)
    if get_origin(kind) is list:
        item, item_nullable = without_none(get_args(kind)[0])
        words = "list of " + {int: "integers", float: "numbers", str: "texts"}.get(item, "objects")
        words += " and nulls" if item_nullable else ""
    elif kind in (Numbers, Integers):
        words = "list of numbers and nulls" if kind is Numbers else "list of integers"
    else:
        words = {int: "integer", float: "number", str: "text", bool: "boolean"}.get(kind, "object")
    if member.omittable:
        return say(f"{words}, or missing")
    return say(f"{words} or null" if nullable or type(None) in member.plain else words)


def without_none(kind: Any) -> tuple[Any, bool]:
    arms = [arm for arm in get_args(kind) if arm is not type(None)]
    is_union = type(None) in get_args(kind)
    return (arms[0], True) if is_union else (kind, False)


def merged(rows: list[Row]) -> Iterator[Row]:
    """The rows, those that follow each other and say the same as one."""
    last: Row | None = None
    for row in rows:
        if last and (last.kind, last.meaning) == (row.kind, row.meaning):
            last = last._replace(keys=(*last.keys, *row.keys))
            continue
        if last:
            yield last
        last = row
    if last:
        yield last


# ------------------------------------------------------------------------------------------------------ as Markdown
def description(language: Language) -> str:
    """All that stands between the markers of a page."""
    say = language.say
    heads = [f"| {say('event')} | {say('one per')} | {say('written by')} |", "|---|---|---|"]
    lines = [f"| [`{kind.event}`](#{kind.event}) | {one_per(kind, say)} | {writers(kind, say)} |" for kind in events()]
    return "\n".join([*heads, *lines, "", *(line for kind in events() for line in section(kind, language))])


def events() -> list[type[Event]]:
    return list(DECLARED.values())


def one_per(kind: type[Event], say: Callable[[str], str]) -> str:
    return cell(say(paragraphs(kind)[0]))


def paragraphs(kind: type[Event]) -> list[str]:
    """An event's docstring: one per what, and what else there is to say."""
    return [" ".join(paragraph.split()) for paragraph in str(kind.__doc__).split("\n\n")]


def writers(kind: type[Event], say: Callable[[str], str]) -> str:
    return say("every run") if kind.scripts == SCRIPTS else ", ".join(f"`{script}`" for script in kind.scripts)


def section(kind: type[Event], language: Language) -> Iterator[str]:
    say = language.say
    yield from (f"### {kind.event}", "")
    for paragraph in paragraphs(kind)[1:]:
        yield from (*textwrap.wrap(say(paragraph), 120), "")
    for case, rows in tables_of(kind, say):
        if case:
            yield from (language.also.format(say(case)[0].upper() + say(case)[1:]), "")
        yield from (f"| {say('field')} | {say('type')} | {say('meaning')} |", "|---|---|---|")
        for row in merged(rows):
            named = " ".join(f"`{key}`" for key in row.keys)
            yield f"| {named} | {row.kind} | {cell(row.meaning)} |"
        yield ""


def cell(text: str) -> str:
    """A text in a table."""
    return text.replace("|", "\\|")


def page_with(page: str, text: str) -> str:
    """A page with this description between its markers."""
    before, between, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not between or not end:
        raise SystemExit(f"the page has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{text.rstrip()}\n\n{END}{after}"


if __name__ == "__main__":
    for language in LANGUAGES:
        page = language.page.read_text(encoding="utf-8")
        language.page.write_text(page_with(page, description(language)), encoding="utf-8")
