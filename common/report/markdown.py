"""Markdown that says what it was given: text from logs is shown, never read as Markdown, HTML or a terminal's codes.

Standard library only.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterable, Sequence

from common.log.runlog import printable

# What Markdown or HTML could read as more than text. As character references they are text everywhere, in tables too.
ACTIVE = frozenset("\\`*[]<>&|~#$")
SCHEME = re.compile(r"(?i)://|\bwww\.|\b(?:mailto|xmpp|javascript|data):")  # what GitHub's flavour makes a link of
OPENING = re.compile(r"^(?:[-+=](?=[-=\s]|$)|\d+[.)](?=\s|$))")  # what begins a list or a rule at the start of a line
BLOCK = re.compile(r"[-+*=>#|]|`{3}|~{3}|\d+[.)]")  # what can begin another kind of block
WIDTH = 120
NAMED = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
ELIDED = "..."


def escape(value: object) -> str:
    """A value as text on one line, in which nothing is markup; control and invisible characters are shown escaped."""
    text = printable(str(value)).strip()
    characters = [_reference(c) if c in ACTIVE or _is_emphasis(text, at) else c for at, c in enumerate(text)]
    escaped = "".join(characters)
    escaped = SCHEME.sub(lambda found: found[0].replace(":", _reference(":")).replace(".", _reference(".")), escaped)
    return OPENING.sub(lambda found: found[0][:-1] + _reference(found[0][-1]), escaped)


def _reference(character: str) -> str:
    return NAMED.get(character) or f"&#{ord(character)};"


def _is_emphasis(text: str, at: int) -> bool:
    """An underscore, unless it is inside a word, where it is one of the word's letters."""
    inside = 0 < at < len(text) - 1 and text[at - 1].isalnum() and text[at + 1].isalnum()
    return text[at] == "_" and not inside


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already, such as `escape` makes."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def wrap(part: str) -> str:
    """A paragraph, list or quotation in lines of at most WIDTH columns, where that changes nothing of its meaning."""
    if part.startswith(("|", "```", "#", "![", "---")):
        return part
    return "\n".join(_wrap_line(line) for line in part.splitlines())


def _wrap_line(line: str) -> str:
    indent = {"- ": "  ", "> ": "> "}.get(line[:2], "")
    lines = textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    begun = any(BLOCK.match(each.removeprefix(indent)) for each in lines[1:])
    return line if begun or not lines else "\n".join(lines)


def command(words: Sequence[str]) -> str:
    """A line for a shell. A word that a page can't show safely is left out, and `...` stands for it."""
    return " ".join(_shell_word(word) for word in words)


def _shell_word(word: str) -> str:
    unsafe = not word.isprintable() or any(character in ACTIVE for character in word)
    return ELIDED if unsafe else shlex.quote(word)


def fenced(lines: Iterable[str], language: str) -> str:
    """A block of code; its lines hold nothing that ends it."""
    return "\n".join([f"```{language}", *lines, "```"])
