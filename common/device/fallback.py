"""Noticing operators that ran on the CPU although the model is on the NPU.

torch_npu says so only in a line on standard error, which it writes from C++ (VariableFallbackKernel.cpp): no Python
warning is raised. So standard error is read on its way out while an NPU is at work.
"""

from __future__ import annotations

import fcntl
import os
import re
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STDERR = 2
WARNING = re.compile(rb"The operator '([\w:.]+)' is not currently supported[^\n]*will fall back to run on the CPU")
CHUNK = 65536


@contextmanager
def noticed(device_type: str) -> Iterator[set[str]]:
    """Collect the names of operators that fall back inside the block (`npu` only; all other output passes by)."""
    operators: set[str] = set()
    if device_type != "npu":
        yield operators
        return
    original = os.dup(STDERR)
    # A terminal stays one for those who ask, such as progress bars.
    reading, writing = _open_terminal() if os.isatty(STDERR) else os.pipe()
    reader = threading.Thread(target=_pass_on, args=(reading, original, operators), daemon=True)
    sys.stderr.flush()
    os.dup2(writing, STDERR)
    os.close(writing)
    reader.start()
    try:
        yield operators
    finally:
        sys.stderr.flush()
        os.dup2(original, STDERR)  # closes the last writing end: the reader comes to its end
        reader.join(timeout=5)
        os.close(original)


def _open_terminal() -> tuple[int, int]:
    """The two ends of a pseudo-terminal of the size of standard error's: a progress bar fits itself to it."""
    reading, writing = os.openpty()
    size = fcntl.ioctl(STDERR, termios.TIOCGWINSZ, bytes(8))  # struct winsize: four shorts
    fcntl.ioctl(writing, termios.TIOCSWINSZ, size)
    return reading, writing


def _pass_on(reading: int, original: int, operators: set[str]) -> None:
    """Copy what is written to standard error, and pick the warnings out of it."""
    recent = b""
    while True:
        try:
            chunk = os.read(reading, CHUNK)
        except OSError:  # a terminal's way to say that the other end was closed
            chunk = b""
        if not chunk:
            break
        os.write(original, chunk)
        recent = recent[-CHUNK:] + chunk
        operators.update(name.decode() for name in WARNING.findall(recent))
    os.close(reading)
