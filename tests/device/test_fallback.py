"""Fallbacks are noticed in what passes by on standard error, be it a pipe or a terminal; nothing of it is lost."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from common.device import fallback

WARNING = (
    "[W compiler_depend.ts:164] Warning: CAUTION: The operator '{}' is not currently supported on the NPU backend and "
    "will fall back to run on the CPU. This may have performance implications."
)
SIZE = struct.pack("4h", 33, 77, 0, 0)  # rows and columns, and two that nobody fills


@contextmanager
def standard_error(kind: str) -> Iterator[int]:
    """Let standard error be a pipe or a terminal of 33 x 77; the end at which it can be read."""
    reading, writing = os.openpty() if kind == "terminal" else os.pipe()
    if kind == "terminal":
        fcntl.ioctl(writing, termios.TIOCSWINSZ, SIZE)
    before = os.dup(fallback.STDERR)
    os.dup2(writing, fallback.STDERR)
    try:
        yield reading
    finally:
        os.dup2(before, fallback.STDERR)
        for end in (reading, writing, before):
            os.close(end)


def said(*lines: str) -> None:
    """Write to standard error as C++ does, past Python's own stream."""
    os.write(fallback.STDERR, "".join(f"{line}\n" for line in lines).encode())


def lines_until(end: str, reading: int) -> list[str]:
    """What came out at the other end, up to and with this line."""
    text = b""
    while not text.endswith(end.encode() + b"\n"):
        text += os.read(reading, fallback.CHUNK).replace(b"\r", b"")  # a terminal ends a line with both
    return text.decode().splitlines()


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")  # the reader comes to its end
@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_operators_that_fall_back_are_named_and_every_line_passes_by(kind: str) -> None:
    lines = [WARNING.format("aten::cat"), "something else", WARNING.format("aten::erfinv")]
    with standard_error(kind) as reading:
        with fallback.noticed("npu") as operators:
            said(*lines)
        assert operators == {"aten::cat", "aten::erfinv"}
        said("the end")
        assert lines_until("the end", reading) == [*lines, "the end"]


def test_a_terminal_stays_one_of_its_size() -> None:
    with standard_error("terminal"), fallback.noticed("npu"):
        assert os.isatty(fallback.STDERR)
        assert fcntl.ioctl(fallback.STDERR, termios.TIOCGWINSZ, bytes(8)) == SIZE
    with standard_error("pipe"), fallback.noticed("npu"):
        assert not os.isatty(fallback.STDERR)


def test_on_another_device_standard_error_is_left_alone() -> None:
    with standard_error("pipe") as reading:
        before = os.fstat(fallback.STDERR)
        with fallback.noticed("cpu") as operators:
            assert os.path.samestat(os.fstat(fallback.STDERR), before)
            said(WARNING.format("aten::cat"))
        assert operators == set()
        assert lines_until("CPU. This may have performance implications.", reading) == [WARNING.format("aten::cat")]
