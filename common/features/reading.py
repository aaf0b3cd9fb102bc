"""Feature files as inference.py writes them, read: embeddings of images, which images, and what computed them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open

from common.cli.options import EMBEDDING
from common.errors import UserError, first_line
from common.features.files import FEATURES, HASHES, NAMES, RUN, SHA256_BYTES
from common.log import schema
from common.log.events import Computed, Env, Model, Numerics
from common.stand_ins import stand_in

OTHERS = ("code_sha256", "git")  # of what made a file, beside its records
ABOUT = ("weights_sha256", "preprocess", RUN)

T = TypeVar("T")


@dataclass(frozen=True)
class FeatureFile:
    """Embeddings [N, D] in float32, mapped from the file, of images by their names and hashes [N, 32], and what
    computed them: `about` is the file's own, the events those of the run that made it.
    """

    path: Path
    embeddings: np.ndarray
    names: Sequence[str]
    hashes: np.ndarray
    about: dict[str, Any]
    env: Env
    model: Model
    numerics: Numerics

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def kind(self) -> str:
        """What of the model's it holds: `embedding` or `pooled`."""
        return str(self.about.get(FEATURES, EMBEDDING))

    @property
    def code_sha256(self) -> str:
        return str(self.about[RUN]["code_sha256"])

    @property
    def git(self) -> str | None:
        found: str | None = self.about[RUN]["git"]
        return found

    @property
    def computed(self) -> Computed:
        """Where and how."""
        env, model = self.env, self.model
        return Computed(
            device=env.device,
            device_name=env.device_name,
            simulated=env.is_simulated,
            dtype=model.dtype,
            numerics=model.numerics,
        )

    def sha256(self) -> str:
        """Of the whole file; that of gigabytes takes seconds."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def hashes_of(self, rows: slice) -> list[str]:
        """Of these images, in hexadecimal digits."""
        digits, size = self.hashes[rows].tobytes().hex(), 2 * SHA256_BYTES
        return [digits[at : at + size] for at in range(0, len(digits), size)]

    @cached_property
    def rows(self) -> dict[str, int]:
        """Where each image is, by its name."""
        return {name: row for row, name in enumerate(self.names)}


def is_feature_file(path: Path) -> bool:
    """Whether a file is one of inference.py's by its form: a `.npy`, or safetensors with a tensor `embedding`."""
    if path.suffix == ".npy":
        return True
    try:
        with safe_open(path, "np") as opened:
            return EMBEDDING in opened.keys()  # noqa: SIM118
    except (SafetensorError, OSError):
        return False


def read(path: Path) -> FeatureFile:
    """Raises UserError, in one line, for a file that is none, is not whole, or does not say what it is of."""
    try:
        embeddings, hashes, about = _from_npy(path) if path.suffix == ".npy" else _from_safetensors(path)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, EOFError) as error:
        reason = stand_in(path) if path.is_file() else None
        raise UserError(f"{path} {reason or f'is no whole feature file: {first_line(error)}'}") from error
    lacking = [key for key in ABOUT if not about.get(key)] + ([] if hashes is not None else [HASHES])
    if lacking:
        raise UserError(
            f"{path} does not say what it is of ({', '.join(lacking)} missing): inference.py --output of this version "
            "writes that"
        )
    names, run = about.get(NAMES), about[RUN]
    sound = isinstance(run, dict) and all(key in run for key in OTHERS)
    if (
        not sound
        or not isinstance(names, list)
        or hashes is None
        or embeddings.ndim != 2
        or 0 in embeddings.shape
        or embeddings.dtype != np.float32
    ):
        raise UserError(f"{path} is a damaged feature file: what it says of itself is not whole")
    if len(names) != len(embeddings) or hashes.shape != (len(embeddings), SHA256_BYTES):
        raise UserError(f"{path} is a damaged feature file: {len(embeddings)} embeddings and {len(names)} names")
    if len(set(names)) != len(names):
        raise UserError(f"{path} is a damaged feature file: two images have one name")
    events = (_event(path, run, kind) for kind in (Env, Model, Numerics))
    env, model, numerics = events
    return FeatureFile(path, embeddings, names, hashes, about, env, model, numerics)  # type: ignore[arg-type]


def _event(path: Path, run: dict[str, Any], kind: type[T]) -> T:
    """A record of the run that made the file."""
    name = kind.event  # type: ignore[attr-defined]
    try:
        return schema.decode(kind, run.get(name) or {})
    except schema.MisfitError as error:
        raise UserError(f"{path} is a damaged feature file: its {name} record: {error}") from error


def _from_npy(path: Path) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    embeddings = np.load(path, mmap_mode="r", allow_pickle=False)
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    hashes = about.pop(HASHES, None)
    return embeddings, None if hashes is None else _as_bytes("".join(hashes)), about


def _as_bytes(digits: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(digits), np.uint8).reshape(-1, SHA256_BYTES)


def _from_safetensors(path: Path) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """The library checks the file, and gives copies; here the embeddings stay in it."""
    with safe_open(path, "np") as opened:
        metadata = opened.metadata() or {}
        shape = opened.get_slice(EMBEDDING).get_shape()
        hashes = opened.get_tensor(HASHES) if HASHES in opened.keys() else None  # noqa: SIM118
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    if header[EMBEDDING]["dtype"] != "F32":
        raise ValueError(f"its embeddings are {header[EMBEDDING]['dtype']}, not F32")
    start = 8 + length + header[EMBEDDING]["data_offsets"][0]
    about = {key: _parsed(value) for key, value in metadata.items()}
    if "images_file" in about:
        about[NAMES] = json.loads(path.with_name(str(about["images_file"])).read_text(encoding="utf-8"))[NAMES]
    embeddings = np.memmap(path, "<f4", "r", start, tuple(shape)) if 0 not in shape else np.empty(shape, np.float32)
    return embeddings, hashes, about


def _parsed(text: str) -> Any:
    """A value of the metadata: texts stand there as they are, all else as JSON."""
    if text[:1] not in ("[", "{"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
