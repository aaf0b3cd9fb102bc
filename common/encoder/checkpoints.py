"""Checkpoints: where an encoder's parts are, its config and its weight files, by --model and --weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli.options import ModelChoice
from common.encoder import hubs
from common.errors import UserError

WITHOUT_HUB = "--weights DIR (a snapshot folder or .safetensors file), --weights random and --model demo need no hub"

MOST_JSON = 16 * 1024 * 1024  # bytes of a config
PICKLES = (".bin", ".pt", ".pth", ".ckpt")

# The architecture of the second reference, so that `--weights random` needs no hub for it. ViT-H/14 as its model page
# has it; the LayerNorm epsilon is MAE's.
CARRIED_CONFIGS: dict[str, dict[str, Any]] = {
    "facebook/webssl-mae700m-full2b-224": {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "layer_norm_eps": 1e-6,
    }
}


@dataclass(frozen=True)
class Checkpoint:
    """Where an encoder's parts are: a folder with its json files, its weight files, and what to call their source."""

    folder: Path | None
    files: list[Path]  # none for random weights
    source: str


def find_library(model: str) -> str:
    """`timm` or `transformers`: by the folder's config.json, else by the id."""
    folder = Path(model)
    if folder.is_dir():
        config = read_json(folder / "config.json")
        if "model_type" in config:
            return "transformers"
        if "architecture" in config:
            return "timm"
        raise UserError(f"{folder / 'config.json'} names neither a timm architecture nor a transformers model_type")
    if model.startswith("timm/"):
        return "timm"
    if model.count("/") == 1 and not model.startswith((".", "/", "~")):
        return "transformers"
    raise UserError(f"no model {model}: it is neither a folder, timm/<name>, <org>/<name> nor demo")


def find_checkpoint(wanted: ModelChoice, library: str) -> Checkpoint:
    """The parts of a model, fetched where they are on a hub. Raises UserError for what is not there."""
    model, weights_path = wanted.model, wanted.weights
    local = Path(model) if Path(model).is_dir() else None
    if weights_path == "random":
        known = local or library == "timm" or model in CARRIED_CONFIGS
        folder = local if known else _fetch(wanted, library, with_weights=False)
        return Checkpoint(folder, [], "random")
    if weights_path is not None:
        path = Path(weights_path)
        if path.is_dir():
            return Checkpoint(local or _config_folder(path), _weight_files(path), path.resolve().name)
        if not path.is_file():
            raise UserError(f"--weights {weights_path}: no such file or folder")
        if path.suffix != ".safetensors":
            raise UserError(f"--weights {weights_path}: only .safetensors files are read, never a pickle")
        beside = _config_folder(path.parent) if library == "transformers" else None  # timm's registry has the config
        return Checkpoint(local or beside, [path], path.name)
    if local:
        return Checkpoint(local, _weight_files(local), local.resolve().name)
    folder = _fetch(wanted, library, with_weights=True)
    return Checkpoint(folder, _weight_files(folder), model)


def _fetch(wanted: ModelChoice, library: str, with_weights: bool) -> Path:
    hub = wanted.hub or ("modelscope" if library == "timm" else "huggingface")
    try:
        return hubs.fetch_snapshot(wanted.model, hub, wanted.revision, with_weights)
    except UserError as error:
        instead = WITHOUT_HUB if with_weights else "its config.json is needed: --model takes a folder that has it"
        raise UserError(f"{error}; {instead}") from error


def _config_folder(folder: Path) -> Path | None:
    return folder if (folder / "config.json").is_file() else None


def _weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors: the shards that its index names, model.safetensors, or the only file there is."""
    files = [folder / name for name in hubs.weight_names(folder)]
    if files == [folder / hubs.SINGLE_FILE] and not files[0].is_file():
        files = sorted(folder.glob("*.safetensors"))
        pickles = sorted(file.name for ending in PICKLES for file in folder.glob(f"*{ending}"))
        if not files and pickles:
            raise UserError(f"{folder} has {pickles[0]}, a pickle, which is never read; convert it: {hubs.CONVERSION}")
        if len(files) != 1:
            raise UserError(f"{folder} has {len(files)} .safetensors files and no {hubs.SINGLE_FILE} or {hubs.INDEX}")
    for file in files:
        if not file.is_file():
            raise UserError(f"{folder} lacks {file.name}, or it is no regular file")
    return files


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds. Raises UserError for any other file."""
    try:
        if path.stat().st_size > MOST_JSON:
            raise UserError(f"{path} is larger than any config, {MOST_JSON} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent} has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content
