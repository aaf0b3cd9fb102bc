"""Command-line flags that the scripts share, user errors and exit codes. Standard library only.

`--help` and a usage error must not wait for torch, so nothing here imports it.
"""

from __future__ import annotations

import argparse
import errno
import gc
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import runlog

EXIT_OK = 0
EXIT_FAIL = 1
EXIT_ERROR = 2  # a wrong input, environment or device failure; for the checker: cannot judge
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
# The kinds of device, in the order in which `auto` takes them, and by what torch.distributed joins several of them.
DEVICE_KINDS = {"npu": "hccl", "cuda": "nccl", "cpu": "gloo"}
ACCELERATORS = tuple(kind for kind in DEVICE_KINDS if kind != "cpu")
STORAGE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP),
)
LONGEST_REASON = 300  # characters that a library may say in one of our lines


class UserError(Exception):
    """Something the user can mend. The message is one line that says what is wrong and what works instead."""


def first_line(error: object) -> str:
    """An exception in one line, for a message that is one line itself."""
    return (str(error).splitlines() or [type(error).__name__])[0][:LONGEST_REASON]


class Parser(argparse.ArgumentParser):
    """A script's parser: a description, its flags, examples, and usage errors in the form of all our errors."""

    def __init__(self, script: str, description: str | None, examples: str) -> None:
        super().__init__(
            prog=script,
            description=description,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print(f"error: {runlog.printable(message)}", file=sys.stderr)
        sys.exit(EXIT_ERROR)


class RunParser(Parser):
    """A parser that sets the earlier log aside on a usage error: it must not answer for a run that never began."""

    def __init__(self, script: str, description: str | None, examples: str, log_name: str) -> None:
        super().__init__(script, description, examples)
        self.log_name = log_name
        self.argv: list[str] = []

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        self.argv = list(sys.argv[1:] if argv is None else argv)
        args = self.parse_args(self.argv)
        args.argv = self.argv
        return args

    def error(self, message: str) -> NoReturn:
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        finder.add_argument("--log-dir", type=Path, default=self.get_default("log_dir"))
        with suppress(argparse.ArgumentError, OSError):  # no usable folder, so no earlier log in it either
            runlog.set_aside(finder.parse_known_args(self.argv)[0].log_dir / self.log_name)
        super().error(message)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags that inference.py, accuracy_run.py and accuracy_run_perf.py share."""
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        metavar="ID",
        default="timm/vit_giant_patch14_clip_224.laion2b",
        help="timm/<name>, a transformers <org>/<name>, a local folder with its config.json, or demo "
        "(default: %(default)s)",
    )
    model.add_argument(
        "--weights",
        metavar="PATH|random",
        help="a .safetensors file or a snapshot folder instead of the hub; random: seeded weights, no network",
    )
    model.add_argument(
        "--hub",
        choices=("modelscope", "huggingface"),
        help="where to fetch from (default: modelscope for timm/..., huggingface otherwise)",
    )
    model.add_argument("--revision", metavar="REV", help="branch, tag or commit on the hub")

    device = parser.add_argument_group("device")
    device.add_argument(
        "--device",
        default="auto",
        type=parse_device,
        metavar="|".join(["auto", *(f"{kind}[:N]" for kind in ACCELERATORS), "cpu"]),
        help=f"auto takes {', then '.join(DEVICE_KINDS)}, and says which (default: %(default)s)",
    )
    device.add_argument(
        "--numerics",
        choices=("strict", "fast"),
        default="strict",
        help="strict: no HF32 or TF32, and the GELU that the model asks for; fast: the device's defaults; both are "
        "probed (default: %(default)s)",
    )
    device.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="what the device computes in (default: %(default)s)",
    )

    run = parser.add_argument_group("run")
    run.add_argument(
        "--image",
        nargs="+",
        metavar="PATH",
        type=Path,
        help="image files, or folders that are searched recursively (default: a photo that matplotlib ships)",
    )
    run.add_argument(
        "--strict-images",
        action="store_true",
        help="an image in a folder that can't be decoded is an error (else it is left out, named and counted)",
    )
    run.add_argument("--seed", type=int, default=0, help="of crops and random weights (default: %(default)s)")
    run.add_argument(
        "--log-dir", type=Path, default=Path("logs"), metavar="DIR", help="where the logs go (default: %(default)s)"
    )
    run.add_argument("--debug", action="store_true", help="show the traceback of a reported error")


def open_log(args: argparse.Namespace, script: str, log_name: str, rank: int = 0, **start: Any) -> runlog.RunLog:
    """Set the earlier log aside and open this run's; `start` adds fields to its `run_start` record.

    Only the first of several ranks has a log.
    """
    if rank > 0:
        return runlog.NoLog()
    path = args.log_dir / log_name
    try:
        return runlog.RunLog(path, script, args.argv, **start)
    except OSError as error:
        raise UserError(f"the log {path} can't be written: {error.strerror}; --log-dir names another folder") from error


def set_environment(device: str, numerics: str) -> None:
    """Set the switches that torch_npu reads when torch starts, unless the user has; call it before torch is imported.

    TORCH_NPU_FALLBACK_CPU_DISABLE: an operator that the NPU lacks raises, and does not run on the CPU unseen.
    TORCH_NPU_USE_COMPATIBLE_IMPL: GELU computes what `approximate` asks for (torch_npu 26 and newer).
    TORCH_DEVICE_BACKEND_AUTOLOAD: the CPU needs no torch_npu, which can't start without CANN.
    """
    if device == "cpu":
        os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
        return
    os.environ.setdefault("TORCH_NPU_FALLBACK_CPU_DISABLE", "1")
    if numerics == "strict":
        os.environ.setdefault("TORCH_NPU_USE_COMPATIBLE_IMPL", "1")


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
        raise UserError(
            "torch_npu is installed but can't start, most likely for want of CANN: source the set_env.sh of the CANN "
            "toolkit, or run on the CPU with TORCH_DEVICE_BACKEND_AUTOLOAD=0 and --device cpu"
        ) from error


def parse_device(text: str) -> str:
    """`auto`, `cpu`, `npu`, `npu:1`, `cuda`, `cuda:0` ...; anything else is a usage error."""
    kind, colon, index = text.partition(":")
    if kind in ACCELERATORS and (not colon or (index.isascii() and index.isdigit())):
        return text
    if text in ("auto", "cpu"):
        return text
    known = ", ".join(f"{kind}, {kind}:N" for kind in ACCELERATORS)
    raise argparse.ArgumentTypeError(f"{text!r} is not auto, {known} or cpu")


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def nonnegative_int(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


def positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def percent(text: str) -> float:
    """`1.0` or `1.0%` as the fraction 0.01."""
    return positive_float(text.removesuffix("%")) / 100


def _described(error: UserError | OSError) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)


def run(main: Callable[[], int]) -> NoReturn:
    """Call a script's main and leave with its exit code.

    A UserError becomes one line on stderr and exit 2, and so does what storage refuses: a full disk, a file that may
    not be read.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name the terminal's encoding lacks must not end the run
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main()
        sys.stdout.flush()
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in STORAGE:
            raise
        if "--debug" in sys.argv[1:]:
            traceback.print_exc()
        print(f"error: {runlog.printable(_described(error))}", file=sys.stderr)
        code = EXIT_ERROR
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    try:
        sys.stdout.flush()
    except OSError:  # said already; at its own end Python would say it again, and leave with another code
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
