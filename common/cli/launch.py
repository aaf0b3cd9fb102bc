"""How a script starts and ends: its log, the switches before torch is imported, the imports, its exit code.

Standard library only.
"""

from __future__ import annotations

import argparse
import errno
import gc
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from common.errors import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_UNFORESEEN, DeviceError, UserError, first_line
from common.log.events import Plan
from common.log.framing import printable
from common.log.lines import UnreadableRecordError
from common.log.reader import read_runs
from common.log.writer import NoLog, RunLog, is_of, silence

# What a disk or a folder refuses with: the user's to mend.
STORAGE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP),
)


def open_log(args: argparse.Namespace, script: str, log_name: str, rank: int = 0, plan: Plan | None = None) -> RunLog:
    """Set the earlier log aside and open this run's. Only the first of several ranks has a log."""
    if rank > 0:
        return NoLog()
    path = args.log_dir / log_name
    try:
        log = RunLog(path, script, args.argv, plan)
        log.line(f"Log: {path}")  # the first sign of life: the imports take seconds
        return log
    except OSError as error:
        raise UserError(f"the log {path} can't be written: {error.strerror}; --log-dir names another folder") from error


def is_done(args: argparse.Namespace, script: str, log_name: str) -> bool:
    """With --skip-complete: whether the log of this very command is there, whole and complete; that is printed."""
    path = args.log_dir / log_name
    if not args.skip_complete or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            runs = list(read_runs(file))
    except (OSError, UnreadableRecordError):
        return False
    done = len(runs) == 1 and not runs[0].problems and is_of(runs[0].start, script, args.argv)
    if done:
        print(f"{path} is complete, of this command and code: skipped")
    return done


def closing_line(args: argparse.Namespace, log_name: str, found: str, next_script: str | None) -> str:
    """A run's last line: what it found, where the log is, and the command that comes next."""
    following = ""
    if next_script == "check_accuracy_run_perf.py":
        folder = [] if str(args.log_dir) == "logs" else [shlex.quote(str(args.log_dir))]
        allowed = ["--allow-random-weights"] if args.weights == "random" else []
        following = f"; next: {' '.join(['python', next_script, *folder, *allowed])}"
    elif next_script:
        following = f"; next: {' '.join(['python', next_script, *args.shared])}"
    return f"{found}; log: {args.log_dir / log_name}{following}"


def set_environment(device: str) -> None:
    """Set the switches that torch_npu reads when torch starts, unless the user has; call it before torch is imported.

    TORCH_NPU_FALLBACK_CPU_DISABLE: an operator that the NPU lacks raises, and does not run on the CPU unseen, in those
    builds of torch_npu that know the variable.
    TORCH_DEVICE_BACKEND_AUTOLOAD: the CPU needs no torch_npu, which can't start without CANN.
    """
    if device == "cpu":
        os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    else:
        os.environ.setdefault("TORCH_NPU_FALLBACK_CPU_DISABLE", "1")


@contextmanager
def collector_paused() -> Iterator[None]:
    """Around the import of large libraries: Python's garbage collector waits until the end.

    It would search all that they define, again and again, for a fifth of the time that the import takes; it all stays.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def import_errors() -> Iterator[None]:
    """Around a script's deferred imports: a package that is missing or broken is the user's to mend."""
    try:
        with collector_paused():
            yield
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed: pip install -r requirements.txt") from error
    except RuntimeError as error:
        if "backend extension" not in str(error):
            raise
        raise UserError(f"{why_torch_npu_fails(error.__cause__ or error)}; --device cpu runs without it") from error


def why_torch_npu_fails(error: BaseException) -> str:
    """What keeps torch_npu from starting, with what helps, by what its import said."""
    reason = first_line(error)
    if "undefined symbol" in reason:
        helps = "torch and torch_npu do not fit each other: each torch_npu is built for one torch"
    else:
        helps = "source the set_env.sh of the CANN toolkit"
    return f"torch_npu is installed but can't start ({reason}); {helps}"


def warn(text: str) -> None:
    """Say in one line on standard error what was decided for the user, where no log is at hand."""
    print(f"warning: {printable(text)}", file=sys.stderr)


def say(line: str) -> None:
    """Print a line; whoever read along may have left, and the rest is done all the same."""
    try:
        print(line)
    except BrokenPipeError:
        silence(sys.stdout)


def run(main: Callable[[], int]) -> NoReturn:
    """Call a script's main and leave with its exit code.

    A UserError becomes one line on stderr and exit 2, and so does what storage refuses: a full disk, a file that may
    not be read. Anything else is a fault of ours: a traceback, and an exit code that is no verdict's.
    """
    interrupts = _noted_interrupts()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name the terminal's encoding lacks must not end the run
            stream.reconfigure(errors="backslashreplace")
    failed = False
    try:
        code = main()
        with suppress(BrokenPipeError):
            sys.stdout.flush()
    except SystemExit:
        raise
    except BaseException as error:
        code = _report(error, bool(interrupts))
        failed = isinstance(error, DeviceError)
    try:
        sys.stdout.flush()
    except OSError:  # said already; at its own end Python would say it again, and leave with another code
        silence(sys.stdout)
    if failed:
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _noted_interrupts() -> list[int]:
    """The interrupts so far. C code that is interrupted, an import's for one, may raise something else for them."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, note)
    return noted


def _report(error: BaseException, interrupted: bool) -> int:
    """Say on standard error what ended a run; its exit code."""
    if interrupted or isinstance(error, KeyboardInterrupt):
        resumable = any(argument.startswith("--output") for argument in sys.argv)
        print(f"error: interrupted{'; --resume goes on where it stopped' if resumable else ''}", file=sys.stderr)
        return EXIT_INTERRUPTED
    known = isinstance(error, UserError) or (isinstance(error, OSError) and error.errno in STORAGE)
    if not known or "--debug" in sys.argv[1:]:
        traceback.print_exception(error)
    if not known:
        return EXIT_UNFORESEEN
    print(f"error: {printable(_described(error))}", file=sys.stderr)
    return EXIT_ERROR


def _described(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)
