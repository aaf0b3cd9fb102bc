"""Noticing operators that ran on the CPU although the model is on the NPU.

torch_npu says so only in a line on standard error, which it writes from C++: no Python warning is raised. So standard
error is read on its way out while an NPU is at work. What falls back without a line is not noticed here: op-plugin's
antialiased and nearest-exact resizing, for two.
"""

from __future__ import annotations

import fcntl
import os
import re
import sys
import termios
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

STDERR = 2
# The texts of torch_npu 2.6 to 2.14 and its op-plugin.
WARNING = re.compile(
    rb"[Tt]he operator '?([\w:.]+)[^\n]*(?:fall ?back to run on the CPU|will fall back to CPU)"
    rb"|support operator '([\w:.]+)', the operator will fall back to CPU"
    rb"|(?:kernel \[)?\b([\w.]+)\]? is not supported by NPU currently\. ?Now this kernel is running on CPU"
)
CHUNK = 65536


def is_disabled(device: torch.device) -> bool:
    """Whether an operator without a kernel on the NPU raises, instead of running on the CPU.

    Measured, because many builds of torch_npu do not know TORCH_NPU_FALLBACK_CPU_DISABLE: by erfcx, for which no
    torch_npu has a kernel. What it says of that is not for the user.
    """
    value = torch.ones(1, device=device)
    original, nowhere = os.dup(STDERR), os.open(os.devnull, os.O_WRONLY)
    sys.stderr.flush()
    os.dup2(nowhere, STDERR)
    try:
        with warnings.catch_warnings(action="ignore"):
            torch.special.erfcx(value)
        return False
    except RuntimeError:
        return True
    finally:
        os.dup2(original, STDERR)
        os.close(original)
        os.close(nowhere)


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
        operators.update(name.decode() for names in WARNING.findall(recent) for name in names if name)
    os.close(reading)
