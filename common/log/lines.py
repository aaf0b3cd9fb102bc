"""The lines of a file that may hold a log, whatever wrote it: gzip, UTF-8, or UTF-16 as PowerShell's `tee` writes it.

Encoding is decided once, at the start of a file. What is in another one later on would hide its records, so it is
refused and named. Standard library only.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator

from common.log.framing import MARKER

LONGEST_LINE = 16 * 1024 * 1024  # bytes: a reader holds a line at a time
GZIP = b"\x1f\x8b"
GZIP_MEMBER = b"\x1f\x8b\x08"  # deflate, the only method that there is
OTHER_ARCHIVES = {b"PK\x03\x04": "zip", b"\xfd7zX": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd"}
BYTE_ORDERS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
SWAPPED = {"utf-16-le": "utf-16-be", "utf-16-be": "utf-16-le"}
WORD = MARKER.strip().encode()
# A line of a container's output as its runtime keeps it: in JSON (Docker's json-file), or after a time (CRI).
IN_JSON = re.compile(
    rb'(?P<head>\{"log":\s?")(?P<text>(?:[^"\\]++|\\.)*+)(?P<tail>".*?"stream":\s?"(?P<stream>\w+)".*)', re.DOTALL
)
IN_CRI = re.compile(
    rb"(?P<head>\S+ (?P<stream>stdout|stderr) (?P<tag>[PF])(?::\S*)? )(?P<text>[^\r\n]*)(?P<tail>\r?\n?)", re.DOTALL
)
LAST_IN_JSON = re.compile(rb"(?<!\\)(?:\\\\)*\\n\Z")  # the line's end
MIXED = "appended to another: give each log as a file of its own"


class UnreadableRecordError(ValueError):
    """A part of a log that can't be read, which may hold records: a damaged one, or more than a log can hold."""


def lines_of(file: io.BufferedReader) -> Iterator[bytes]:
    """The lines of a log, of bounded length.

    Raises UnreadableRecordError for a line that is longer, and for what is not one text in one encoding.
    """
    head = file.peek(4)[:4]
    for magic, name in OTHER_ARCHIVES.items():
        if head.startswith(magic):
            raise UnreadableRecordError(f"it is compressed by {name}: give it unpacked, or by gzip")
    if not head.startswith(GZIP):
        yield from _joined(_text_lines(file))
        return
    try:
        with gzip.open(file) as unpacked:
            yield from _joined(_text_lines(io.BufferedReader(unpacked)))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UnreadableRecordError(f"its gzip is cut or damaged, or has other text behind it: {error}") from None


def _joined(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines, those put together that a container's runtime has cut into parts of 16 KiB.

    Where a part stood that is not the last there is an empty line: the others keep their numbers.
    """
    begun: dict[bytes, tuple[bytes, bytes]] = {}  # by stream: what there is of a line, and how its last part ended
    for number, line in enumerate(lines, start=1):
        part = IN_JSON.match(line) or IN_CRI.match(line)
        if part is None:
            yield line
            continue
        before, _ = begun.pop(part["stream"], (part["head"], b""))
        text = before + part["text"]
        if len(text) > LONGEST_LINE:
            raise UnreadableRecordError(f"line {number} and the parts before it are longer than {LONGEST_LINE} bytes")
        if part["tag"] == b"P" if part.re is IN_CRI else not LAST_IN_JSON.search(part["text"]):
            begun[part["stream"]] = text, part["tail"]
            yield b""
        else:
            yield text + part["tail"]
    yield from (text + tail for text, tail in begun.values())


def _text_lines(file: io.BufferedReader) -> Iterator[bytes]:
    encoding = BYTE_ORDERS.get(file.peek(2)[:2])
    for number, line in enumerate(_wide_lines(file, encoding) if encoding else _byte_lines(file), start=1):
        if len(line) > LONGEST_LINE:
            raise UnreadableRecordError(f"line {number} is longer than {LONGEST_LINE} bytes")
        if b"\0" in line:
            raise UnreadableRecordError(f"line {number} holds NUL bytes, as of UTF-16 (PowerShell's >>) {MIXED}")
        if GZIP_MEMBER in line:
            raise UnreadableRecordError(f"line {number} holds compressed bytes {MIXED}")
        yield line


def _byte_lines(file: io.BufferedReader) -> Iterator[bytes]:
    return iter(lambda: file.readline(LONGEST_LINE + 1), b"")


def _wide_lines(file: io.BufferedReader, encoding: str) -> Iterator[bytes]:
    """The lines of UTF-16, as UTF-8. Text of another encoding in it decodes to other characters, so it is looked for:
    a marker in 8 bits, or one with its bytes swapped or shifted, whose first character may have gone astray.
    """
    swapped = WORD[1:].decode().encode(SWAPPED[encoding]).decode(encoding)
    text = io.TextIOWrapper(file, encoding, newline="\n")
    number = 0
    try:
        while line := text.readline(LONGEST_LINE + 1):
            number += 1
            if swapped in line or WORD in line.encode(encoding, "surrogatepass"):
                raise UnreadableRecordError(f"line {number} holds a record in another encoding {MIXED}")
            yield line.encode()
    except UnicodeDecodeError as error:
        reason = f"{error.reason} after line {number}"
        raise UnreadableRecordError(f"it begins as UTF-16 and is not that throughout: {reason}") from None
    finally:
        text.detach()  # the file is its opener's to close
