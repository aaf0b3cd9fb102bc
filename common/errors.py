"""What ends a run: errors that a user can mend, and exit codes. Standard library only."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAIL = 1
EXIT_ERROR = 2  # a wrong input, environment or device failure; for the checker: cannot judge
EXIT_UNFORESEEN = 70  # EX_SOFTWARE of sysexits.h: a fault of ours, which must not read as a verdict's FAIL
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it

LONGEST_REASON = 300  # characters that a library may say in one of our lines


class UserError(Exception):
    """Something the user can mend. The message is one line that says what is wrong and what works instead."""


class DeviceError(UserError):
    """A device that failed. Its driver may abort the process when Python ends by itself, so the script leaves first."""


def first_line(error: object) -> str:
    """An exception in one line, for a message that is one line itself."""
    return (str(error).splitlines() or [type(error).__name__])[0][:LONGEST_REASON]
