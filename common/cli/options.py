"""Command-line flags that the scripts share, and the parsers. Standard library only.

`--help` and a usage error must not wait for torch, so nothing here imports it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from common.errors import EXIT_ERROR
from common.log import writer
from common.log.framing import printable


class DeviceKind(NamedTuple):
    """What torch.distributed joins several devices of a kind with, the variable that restricts those in sight, and the
    backend of torch.compile that is the kind's own.
    """

    backend: str
    visible_devices: str | None = None
    compiler: str = "inductor"


# In the order in which `auto` takes them.
DEVICE_KINDS = {
    "npu": DeviceKind("hccl", "ASCEND_RT_VISIBLE_DEVICES", "torchair"),
    "cuda": DeviceKind("nccl", "CUDA_VISIBLE_DEVICES"),
    "cpu": DeviceKind("gloo"),
}
ACCELERATORS = tuple(kind for kind in DEVICE_KINDS if kind != "cpu")


EMBEDDING, POOLED = "embedding", "pooled"  # what --features of inference.py takes

# What a published port's scripts take where no flag says otherwise, each with the values that it may have.
DEFAULTS = writer.ROOT / "defaults.json"
HUBS = ("modelscope", "huggingface")
PUBLISHED = {"model": str, "hub": str, "revision": str, "weights": str, "input_size": int}

# What the next script of the chain has to be told again.
SHARED_FLAGS = {"model", "weights", "hub", "revision", "input_size", "device", "numerics", "dtype", "seed", "log_dir"}


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
        print(f"error: {printable(message)}", file=sys.stderr)
        sys.exit(EXIT_ERROR)


def read_published() -> tuple[dict[str, str | int], str]:
    """What DEFAULTS says of the model, its hub and its weights, for that model alone; and what is wrong with the file.

    Nothing of either where there is no such file.
    """
    try:
        found: Any = json.loads(DEFAULTS.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError) as error:
        return {}, f"{DEFAULTS.name} can't be read: {error}"
    known = isinstance(found, dict) and all(type(value) is PUBLISHED.get(key) for key, value in found.items())
    if not known or "model" not in found or found.get("hub", HUBS[0]) not in HUBS or found.get("input_size", 1) < 1:
        return {}, f"{DEFAULTS.name} does not say what it may: {', '.join(PUBLISHED)}, model always"
    return found, ""


class RunParser(Parser):
    """A parser that sets the earlier log aside on a usage error: it must not answer for a run that never began."""

    def __init__(self, script: str, description: str | None, examples: str, log_name: str) -> None:
        super().__init__(script, description, examples)
        self.log_name = log_name
        self.argv: list[str] = []
        self.published, self.fault = read_published()

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        self.argv = list(sys.argv[1:] if argv is None else argv)
        if self.fault:
            self.error(self.fault)
        args = self.parse_args(self.argv)
        args.argv = self.argv
        args.shared = self.shared_words(args)
        if args.model == self.get_default("model"):
            for name, value in self.published.items():
                setattr(args, name, value if getattr(args, name) is None else getattr(args, name))
        return args

    def shared_words(self, args: argparse.Namespace) -> list[str]:
        """The shared flags that were given another value than their default, as one would type them again."""
        words: list[str] = []
        for action in self._actions:
            value = getattr(args, action.dest, None)
            if action.dest in SHARED_FLAGS and value != action.default:
                values = value if isinstance(value, list) else [value]
                words += [action.option_strings[0], *(shlex.quote(str(each)) for each in values)]
        return words

    def error(self, message: str) -> NoReturn:
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        finder.add_argument("--log-dir", type=Path, default=self.get_default("log_dir"))
        with suppress(argparse.ArgumentError, OSError):  # no usable folder, so no earlier log in it either
            writer.set_aside(finder.parse_known_args(self.argv)[0].log_dir / self.log_name)
        super().error(message)


def add_run_options(parser: RunParser) -> None:
    """Add the flags that inference.py, accuracy_run.py and accuracy_run_perf.py share."""
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        metavar="ID",
        default=parser.published.get("model", "timm/vit_giant_patch14_clip_224.laion2b"),
        help="<org>/<name> on a hub (hf-hub: before it too) or a local folder, of timm or transformers by its "
        "config.json; timm/<name> is also a name of timm's registry; or demo (default: %(default)s)",
    )
    model.add_argument(
        "--weights",
        metavar="PATH|random",
        help="a file of weights (.safetensors, .bin, .pth) or a snapshot folder instead of the hub; random: seeded "
        "weights, no network",
    )
    model.add_argument(
        "--hub",
        choices=HUBS,
        help="where to fetch from (default: modelscope for timm/..., huggingface for others and after hf-hub:)",
    )
    model.add_argument("--revision", metavar="REV", help="branch, tag or commit on the hub")
    model.add_argument(
        "--input-size",
        type=positive_int,
        metavar="N",
        help="run the model on images of N x N pixels, by its library's own way (default: the model's size)",
    )

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
    run.add_argument(
        "--skip-complete",
        action="store_true",
        help="do nothing where the log folder has a complete log of this command and code: for loops over models",
    )
    run.add_argument("--debug", action="store_true", help="show the traceback of a reported error")


@dataclass(frozen=True)
class ModelChoice:
    """Which encoder is wanted, and from where: --model, --weights, --hub, --revision, of random weights --seed,
    and --input-size in pixels a side. `pooled`: without its last layer, a classifier's head or a projection.
    """

    model: str
    weights: str | None = None
    hub: str | None = None
    revision: str | None = None
    seed: int = 0
    input_size: int | None = None
    pooled: bool = False

    @classmethod
    def of(cls, args: argparse.Namespace) -> ModelChoice:
        return cls(args.model, args.weights, args.hub, args.revision, args.seed, args.input_size)


@dataclass(frozen=True)
class ImageChoice:
    """Which images are wanted: --image, of crops --seed, and --strict-images."""

    paths: Sequence[Path] | None = None
    seed: int = 0
    strict: bool = False

    @classmethod
    def of(cls, args: argparse.Namespace) -> ImageChoice:
        return cls(args.image, args.seed, args.strict_images)


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


def count_or_all(text: str) -> int:
    """A number; `all` is 0."""
    return 0 if text == "all" else nonnegative_int(text)


def positive_ints(text: str) -> list[int]:
    """One number, or several with commas between them."""
    try:
        return [positive_int(number) for number in text.removesuffix(",").split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not a list of numbers such as 1,4,8") from error


def batch_sizes(text: str) -> list[int]:
    """As `positive_ints`; none for `auto`."""
    return [] if text == "auto" else positive_ints(text)


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
