"""Markdown that says what it was given: text from logs is shown, never read as Markdown, HTML or a terminal's codes.

Standard library only.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Sequence

from common.log.framing import printable

# What Markdown or HTML could read as more than text. As character references they are text everywhere, in tables too.
ACTIVE = frozenset("\\`*[]<>&|~#$")
SCHEME = re.compile(r"(?i)://|\bwww\.|\b(?:mailto|xmpp|javascript|data):")  # what GitHub's flavour makes a link of
OPENING = re.compile(r"^(?:[-+=](?=[-=\s]|$)|\d+[.)](?=\s|$))")  # what begins a list or a rule at the start of a line
BLOCK = re.compile(r"[-+*=>#|]|`{3}|~{3}|\d+[.)]")  # what can begin another kind of block
CONTINUED = re.compile(r"\n(?! *- |>) *")  # a line's end inside a paragraph or an item
RISKY = re.compile(r"`(?=``)|~(?=~~)|<(?=[A-Za-z/!?])|\](?=\()")
FENCED = re.compile(r"^(```.*?^```(?:\n|\Z))", re.MULTILINE | re.DOTALL)
WIDTH = 120
NAMED = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
ELIDED = "..."


class Markdown(str):
    """A text that is Markdown already. What is cut, joined or formatted of it is plain text again, and escaped."""


NONE = Markdown("-")


def escape(value: object) -> Markdown:
    """A value as text on one line, in which nothing is markup; control and invisible characters are shown escaped.

    Nothing is a dash, and Markdown stays what it is.
    """
    if isinstance(value, Markdown):
        return value
    if value is None:
        return NONE
    text = printable(str(value)).strip()
    characters = [_reference(c) if c in ACTIVE or _is_emphasis(text, at) else c for at, c in enumerate(text)]
    escaped = "".join(characters)
    escaped = SCHEME.sub(lambda found: found[0].replace(":", _reference(":")).replace(".", _reference(".")), escaped)
    return Markdown(OPENING.sub(lambda found: found[0][:-1] + _reference(found[0][-1]), escaped))


def verbatim(value: object) -> Markdown:
    """A value as it is, for a line in a block of code that has begun with other text; what could end the block, or be
    HTML or a link to a careless reader, is shown escaped.
    """
    return Markdown(RISKY.sub(lambda found: f"\\x{ord(found[0][0]):02x}{found[0][1:]}", printable(str(value))))


def _reference(character: str) -> str:
    return NAMED.get(character) or f"&#{ord(character)};"


def _is_emphasis(text: str, at: int) -> bool:
    """An underscore, unless it is inside a word, where it is one of the word's letters."""
    inside = 0 < at < len(text) - 1 and text[at - 1].isalnum() and text[at + 1].isalnum()
    return text[at] == "_" and not inside


def tidy(page: str) -> str:
    """A page with one empty line between its parts, and its prose in lines of at most WIDTH columns; blocks of code
    stay as they are.
    """
    parts: list[str] = []
    for place, piece in enumerate(FENCED.split(page)):
        prose = re.split(r"\n\s*\n", piece.strip())
        parts += [piece.strip("\n")] if place % 2 else [_wrap(part) for part in prose if part]
    return "\n\n".join(parts) + "\n"


def _wrap(part: str) -> str:
    """A paragraph, list or quotation, wrapped where that changes nothing of its meaning."""
    if part.startswith(("|", "#", "![")):
        return part
    return "\n".join(_wrap_line(line) for line in CONTINUED.sub(" ", part).splitlines())


def _wrap_line(line: str) -> str:
    indent = {"- ": "  ", "> ": "> "}.get(line[:2], "")
    lines = textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    begun = any(BLOCK.match(each.removeprefix(indent)) for each in lines[1:])
    return line if begun or not lines else "\n".join(lines)


def command(words: Sequence[str]) -> Markdown:
    """A line for a shell, in a block of code. A word that can't stand there safely is left out for `...`."""
    return Markdown(" ".join(_shell_word(word) for word in words))


def _shell_word(word: str) -> str:
    unsafe = not word.isprintable() or any(character in ACTIVE for character in word)
    return ELIDED if unsafe else shlex.quote(word)
