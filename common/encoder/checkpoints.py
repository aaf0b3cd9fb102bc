"""Checkpoints: where an encoder's parts are, its config and its weight files, by --model and --weights."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import environment, launch
from common.cli.options import ModelChoice
from common.encoder import hubs
from common.errors import UserError
from common.stand_ins import stand_in

WITHOUT_HUB = "--weights PATH (a snapshot folder or file of weights), --weights random and --model demo need no hub"
CONFIG_NEEDED = "its config.json is needed: --model takes a folder that has it"

MOST_JSON = 16 * 1024 * 1024  # bytes of a config
HUB_PREFIX = re.compile(r"hf[-_]hub:", re.IGNORECASE)  # as timm takes them: hf-hub:<org>/<name>@<revision>
FOLDER_PREFIX = "local-dir:"  # timm's too
DOT = "___"  # what ModelScope's cache makes of a dot in a name
# Folders that a cache may lie in, which own no model.
NO_OWNERS = {"", "models", "model", "hub", "modelscope", "weights", "checkpoints", "cache", ".cache", "tmp", "data"}
# Of each library the key in config.json that its models have.
LIBRARIES = {"transformers": "model_type", "timm": "architecture"}
PREPROCESSING = ("preprocessor_config.json", "processor_config.json")  # of transformers' checkpoints

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
class Named:
    """What --model names: a folder, or an id with its hub and revision. `model` is how it is recorded."""

    model: str
    folder: Path | None
    hub: str = ""
    revision: str | None = None

    @property
    def of_timm(self) -> bool:
        """Whether it is, without any hub, a name in timm's registry too."""
        return self.folder is None and self.model.startswith("timm/")


@dataclass(frozen=True)
class Checkpoint:
    """Where an encoder's parts are: a folder with its json files, its weight files, and what to call their source."""

    library: str  # timm or transformers
    folder: Path | None
    files: list[Path]  # none for random weights
    source: str


# ------------------------------------------------------------------------------------------------- what --model names
def find_model(wanted: ModelChoice) -> Named:
    """The folder or id that --model names. Raises UserError for what is neither, with what may have been meant."""
    prefix = HUB_PREFIX.match(wanted.model)
    if prefix:
        model, _, revision = wanted.model[prefix.end() :].partition("@")
        if revision and wanted.revision not in (None, revision):
            raise UserError(f"--model {wanted.model} names another revision than --revision {wanted.revision}")
        return Named(_require_id(model), None, wanted.hub or "huggingface", wanted.revision or revision or None)
    folder = Path(wanted.model.removeprefix(FOLDER_PREFIX))
    if folder.is_dir():
        if wanted.hub or wanted.revision:
            raise UserError(f"--hub and --revision are for ids on a hub, not for {wanted.model}")
        folder = _snapshot_in(folder)
        return Named(recorded_name(folder), folder)
    model = _require_id(wanted.model)
    of_modelscope = DOT in model
    model = model.replace(DOT, ".")
    hub = wanted.hub or ("modelscope" if of_modelscope or model.startswith("timm/") else "huggingface")
    return Named(model, None, hub, wanted.revision)


def _require_id(model: str) -> str:
    owner, _, name = model.partition("/")
    if owner and name and "/" not in name and ":" not in model and not model.startswith((".", "~")):
        return model
    hint = f"; timm has it: --model timm/{model}" if "/" not in model and _timm_has(model) else ""
    raise UserError(f"no model {model}: it is neither a folder, timm/<name>, <org>/<name> nor demo{hint}")


def _timm_has(model: str) -> bool:
    """Whether timm's registry has a name, by its source: to import timm for a hint would take seconds."""
    name, package = re.escape(model.partition(".")[0]), environment.package_folder("timm")
    registered = re.compile(rf"^def {name}\(|^\s+'{name}':", re.MULTILINE)  # a function, or an old name of one
    sources = package.glob("models/*.py") if package else ()
    return bool(name) and any(registered.search(each.read_text(encoding="utf-8")) for each in sources)


def _snapshot_in(folder: Path) -> Path:
    """The one snapshot in a model's folder of a hub's cache; any other folder itself."""
    if (folder / "config.json").exists() or not (folder / "snapshots").is_dir():
        return folder
    found = sorted(path.parent for path in folder.glob("snapshots/*/config.json"))
    if len(found) != 1:
        raise UserError(f"{folder} has {len(found)} snapshots with a config.json: --model takes the one that is meant")
    return found[0]


def recorded_name(folder: Path) -> str:
    """What a folder is called in logs: the id that a hub's cache keeps there, else the last part of its path.

    (Where somebody's home is does not belong in a log.) The caches of Hugging Face and ModelScope have
    [models--]<org>--<name>/snapshots/<revision>; ModelScope's earlier ones <org>/<name> with ___ for each dot.
    """
    folder = folder.resolve()
    owner, name = folder.parent.name, folder.name
    if owner == "snapshots":
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    if DOT not in name:
        return name
    apart = owner.lower() in NO_OWNERS or str(folder.parent) in (str(Path.cwd()), os.environ.get("HOME"))
    return (name if apart else f"{owner}/{name}").replace(DOT, ".")


# ---------------------------------------------------------------------------------------------- where its parts are
def find_checkpoint(wanted: ModelChoice, named: Named, refuse_unusable: Callable[[Checkpoint], None]) -> Checkpoint:
    """The parts of a model, fetched where they are on a hub. Raises UserError for what is not there.

    `refuse_unusable` is asked, with the json files alone, before weights are fetched.
    """
    if wanted.weights == "random":
        folder, where = named.folder, ""
        if not (folder or named.of_timm or named.model in CARRIED_CONFIGS):
            folder, where = _fetch(named, False, CONFIG_NEEDED), f"{named.model} on {named.hub}"
        return Checkpoint(_find_library(named, folder, where), folder, [], "random")
    if wanted.weights is not None:
        return _of_weights(named, Path(wanted.weights))
    if named.folder:
        return Checkpoint(_find_library(named, named.folder), named.folder, _weight_files(named.folder), named.model)
    folder = _fetch(named, False)
    library = _find_library(named, folder, f"{named.model} on {named.hub}")
    if not hubs.has_weights(folder):
        refuse_unusable(Checkpoint(library, folder, [], named.model))
        folder = _fetch(named, True)
    elif library == "transformers" and not any((folder / name).is_file() for name in PREPROCESSING):
        folder = _with_all_json(named, folder)
    return Checkpoint(library, folder, _weight_files(folder), named.model)


def _of_weights(named: Named, path: Path) -> Checkpoint:
    """With the weights that --weights names, and the config of the model's folder or of what lies beside them."""
    if path.is_dir():
        path = _snapshot_in(path)
        beside, files, source = _config_folder(path), _weight_files(path), recorded_name(path)
    elif not path.is_file():
        raise UserError(f"--weights {path}: no such file or folder")
    elif not path.name.endswith(hubs.SAFETENSORS + hubs.PICKLES):
        raise UserError(f"--weights {path}: weights end in {', '.join(hubs.SAFETENSORS + hubs.PICKLES)}")
    else:
        beside = None if named.of_timm else _config_folder(path.parent)  # timm's registry has the config
        files, source = [path], path.name
    folder = named.folder or beside
    library = _find_library(named, folder)
    if folder and named.of_timm and library != "timm":
        raise UserError(f"{folder} holds no timm model: its config.json names no architecture")
    return Checkpoint(library, folder, files, source)


def _find_library(named: Named, folder: Path | None, where: str = "") -> str:
    """`timm` or `transformers`, by the config.json; without one by what is known of the model."""
    if folder is None:
        if named.of_timm or named.model in CARRIED_CONFIGS:
            return "timm" if named.of_timm else "transformers"
        raise UserError(f"{named.model} needs its config.json beside the weights: --weights names a snapshot folder")
    has_config = (folder / "config.json").is_file()
    if not has_config and (folder / hubs.ADAPTER).is_file():
        raise UserError(f"{where or folder} holds an adapter ({hubs.ADAPTER}) and no model: {hubs.MERGE}")
    if where and not has_config:
        others = sorted(path.name for path in folder.glob("*.json"))
        raise UserError(
            f"{where} has no config.json, so it is no model of timm or transformers (it has {others or 'none'})"
        )
    config = read_json(folder / "config.json")
    for library, key in LIBRARIES.items():
        if config.get(key) is not None:
            return library
    at = f"the config.json of {where}" if where else str(folder / "config.json")
    raise UserError(f"{at} names neither a timm architecture nor a transformers model_type")


def _fetch(named: Named, with_weights: bool, instead: str = WITHOUT_HUB) -> Path:
    try:
        return hubs.fetch_snapshot(named.model, named.hub, named.revision, with_weights)
    except UserError as error:
        raise UserError(f"{error}; {instead}") from error


def _with_all_json(named: Named, cached: Path) -> Path:
    """The snapshot of a cache with the json files that another program, which asked for the model alone, left out."""
    revision = (
        cached.name if cached.parent.name == "snapshots" else named.revision
    )  # the commit that the weights are of
    try:
        hubs.fetch_snapshot(named.model, named.hub, revision, with_weights=False, cache_suffices=False)
    except UserError as error:
        launch.warn(f"whether {named.model} has a preprocessing that its cache lacks can't be told: {error}")
    return cached


def _config_folder(folder: Path) -> Path | None:
    return folder if (folder / "config.json").is_file() else None


def _weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder: one, or the shards of its index."""
    names = hubs.choose_weights([path.name for path in folder.iterdir()], folder, str(folder))
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{folder} lacks {name}, or it is no regular file")
    for index in hubs.unused_indexes(folder, names):
        launch.warn(f"{names[0]} is read, which is whole; {index} beside it is passed over")
    if (folder / hubs.ADAPTER).is_file():
        launch.warn(f"{names[0]} is read without the adapter beside it; where it is not merged yet, {hubs.MERGE}")
    return [folder / name for name in names]


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds. Raises UserError for any other file."""
    try:
        if path.stat().st_size > MOST_JSON:
            raise UserError(f"{path} is larger than any config, {MOST_JSON} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent} has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        instead = stand_in(path) or f"can't be read as JSON: {error}"
        raise UserError(f"{path} {instead}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content
