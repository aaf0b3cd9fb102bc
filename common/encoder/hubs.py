"""Fetching a checkpoint from ModelScope or Hugging Face, with the hubs' own clients and caches."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError, first_line

INDEX = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
ENDPOINTS = {
    "modelscope": ("MODELSCOPE_ENDPOINT", "https://modelscope.cn"),
    "huggingface": ("HF_ENDPOINT", "https://huggingface.co"),
}
TOKENS = {"modelscope": "MODELSCOPE_API_TOKEN", "huggingface": "HF_TOKEN"}
REFUSALS = {"GatedRepoError", "AuthenticationError", "PermissionDeniedError"}  # by name: no client is imported for it
ABSENCES = {"RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError", "NotExistError"}
CONVERSION = (
    "in Python, safetensors.torch.save_file(torch.load('pytorch_model.bin', weights_only=True), 'model.safetensors') "
    "beside its config.json, and --model names that folder"
)
ANSWER_SECONDS = 10  # Hugging Face's client asks for a listing without a time limit


def fetch_snapshot(model: str, hub: str, revision: str | None, with_weights: bool = True) -> Path:
    """The local folder with the checkpoint's json files and, `with_weights`, its safetensors; nothing else is fetched.

    A complete snapshot in the hub's cache is used as it is: that needs no network, and none of the seconds that the
    ModelScope client takes to hash gigabytes again. The json files come first: they say whether the weights are one
    file or shards, so that no duplicate is fetched. The weights come last, so that a cut download is not complete.
    Raises UserError in one line when the hub can't be reached or does not have the model or its weights.
    """
    cached = _cached(model, hub, revision)
    if cached and _is_complete(cached, with_weights):
        return cached
    folder = _download(model, hub, revision, ["*.json"])
    if not with_weights:
        return folder
    names = weight_names(folder)
    folder = _download(model, hub, revision, names)
    if names == [SINGLE_FILE] and not (folder / SINGLE_FILE).is_file():
        folder = _download(model, hub, revision, ["*.safetensors"])
        if not any(folder.glob("*.safetensors")):
            raise UserError(f"{model} on {hub} has no .safetensors weights; {_instead_of_a_pickle(hub)}")
        return folder
    lacking = [name for name in names if not (folder / name).is_file()]
    if lacking:
        raise UserError(f"{model} on {hub} lacks {lacking[0]}, a shard that its {INDEX} names")
    return folder


def _instead_of_a_pickle(hub: str) -> str:
    """What to do about a repository of pytorch_model.bin alone."""
    elsewhere = (
        "its Community tab may have a conversion, which --revision refs/pr/N names"
        if hub == "huggingface"
        else "another --revision, or --hub huggingface, may have them"
    )
    return f"a pickle is never read, but can be converted: {elsewhere}; or {CONVERSION}"


def weight_names(folder: Path) -> list[str]:
    """The names of a snapshot's weight files: the shards in the index's order, or the one file."""
    index = folder / INDEX
    if not index.is_file():
        return [SINGLE_FILE]
    try:
        names = list(dict.fromkeys(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(f"{index} is no index of safetensors shards: {first_line(repr(error))}") from error
    if not names:
        raise UserError(f"{index} names no shard")
    for name in names:
        plain = isinstance(name, str) and Path(name).name == name and not set(name) & set("*?[]")
        if not (plain and name.endswith(".safetensors")):
            raise UserError(f"{index} names {name!r}, which is no .safetensors file of its own folder")
    return names


def _is_complete(folder: Path, with_weights: bool) -> bool:
    if not (folder / "config.json").is_file():
        return False
    names = weight_names(folder) if with_weights else []
    alone = names == [SINGLE_FILE] and len(list(folder.glob("*.safetensors"))) == 1  # under whatever name
    return alone or all((folder / name).is_file() for name in names)


def _cached(model: str, hub: str, revision: str | None) -> Path | None:
    """The snapshot's folder in the hub's cache, complete or not; None where there is none."""
    try:
        # One file that every snapshot has: huggingface_hub takes a cache that lacks others for incomplete.
        return _snapshot_download(model, hub, revision, ["config.json"], local_files_only=True)
    except Exception:  # the clients have no common exception for an empty cache; then the hub is asked, and tells why
        return None


def _download(model: str, hub: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Fetch the files that match `patterns` into the hub's cache, with the client's progress bar on standard error."""
    try:
        if hub == "huggingface":
            from huggingface_hub import HfApi

            HfApi().model_info(model, revision=revision, timeout=ANSWER_SECONDS)
        return _snapshot_download(model, hub, revision, patterns, local_files_only=False)
    except Exception as error:  # the clients raise a dozen unrelated classes; all of them mean: not fetched
        variable, public = ENDPOINTS[hub]
        where = os.environ.get(variable) or public
        what = f"{model} at {revision}" if revision else model
        raise UserError(f"{what} can't be fetched from {hub} ({where}): {_reason(error, hub)}") from error


def _snapshot_download(
    model: str, hub: str, revision: str | None, patterns: Sequence[str], local_files_only: bool
) -> Path:
    if hub == "modelscope":
        # The client's patience is for crawlers: without a network it takes 22 s to say so.
        os.environ.setdefault("MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS", "2")
        os.environ.setdefault("MODELSCOPE_API_MAX_RETRIES", "1")
        from modelscope import snapshot_download

        revision = revision or "master"  # its cache answers None with any revision that it has
        if not sys.stderr.isatty():
            logging.getLogger("modelscope_hub").setLevel(logging.ERROR)
    else:
        from huggingface_hub import snapshot_download
    return Path(snapshot_download(model, revision=revision, allow_patterns=patterns, local_files_only=local_files_only))


def _reason(error: Exception, hub: str) -> str:
    """Why the client failed, in a few words. A file's own failure says more than the client's count of failed files."""
    file = ""
    failed_files = getattr(error, "failed_files", None)
    if isinstance(failed_files, dict) and failed_files:
        name, error = next(iter(failed_files.items()))
        file = f"{name}: "
    kind, status = type(error).__name__, getattr(getattr(error, "response", None), "status_code", None)
    if kind in REFUSALS or status == 403 or (file and status == 401):
        return f"{file}access is restricted; accept its terms on the hub and set {TOKENS[hub]}"
    if kind in ABSENCES or status in (401, 404):
        return f"{file}no such model or revision there (if it is private, set {TOKENS[hub]})"
    return file + first_line(_root_cause(error))


def _root_cause(error: BaseException) -> BaseException:
    """The first of a chain of exceptions: "Connection refused", not the retries that were made of it."""
    cause = error.__cause__ or error.__context__
    return _root_cause(cause) if cause else error
