"""Fetching a checkpoint from ModelScope or Hugging Face, with the hubs' own clients and caches."""

from __future__ import annotations

import glob
import json
import logging
import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError, first_line
from common.stand_ins import stand_in

SINGLE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
INDEXES = {INDEX: SINGLE_FILE, PICKLE_INDEX: PICKLE}  # beside whose whole file it has nothing to say
SAFETENSORS = (".safetensors",)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pth.tar")  # what torch.save writes
# What lies beside an encoder's weights and holds others: of training, of adapters; and the same in OpenCLIP's names.
NO_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states|adapter_model)[._].*")
ADAPTER = "adapter_config.json"  # of PEFT's: it changes weights that lie elsewhere
MERGE = "merge it into its model once, in Python: PeftModel's merge_and_unload(), then save_pretrained"
OPEN_CLIP = re.compile(r"open_clip_.*")
SHARD = re.compile(r".*-\d+-of-\d+\.\w+")

ENDPOINTS = {
    "modelscope": ("MODELSCOPE_ENDPOINT", "https://modelscope.cn"),
    "huggingface": ("HF_ENDPOINT", "https://huggingface.co"),
}
TOKENS = {"modelscope": "MODELSCOPE_API_TOKEN", "huggingface": "HF_TOKEN"}
REFUSALS = {"GatedRepoError", "AuthenticationError", "PermissionDeniedError"}  # by name: no client is imported for it
ABSENCES = {"RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError", "NotExistError"}
ANSWER_SECONDS = 10  # Hugging Face's client asks for a listing without a time limit


def fetch_snapshot(
    model: str, hub: str, revision: str | None, with_weights: bool = True, cache_suffices: bool = True
) -> Path:
    """The local folder with the checkpoint's json files and, `with_weights`, its weight files; nothing else is fetched.

    A complete snapshot in the hub's cache is used as it is, where `cache_suffices`: that needs no network, and none of
    the seconds that the ModelScope client takes to hash gigabytes again. The json files come first, and the hub's list
    of files says which weights are fetched: no duplicate, and none where it can't be told. The weights come last, so
    that a cut download is not complete. Raises UserError in one line when the hub can't be reached or does not have the
    model or its weights.
    """
    cached = _cached(model, hub, revision)
    complete = cached and (cached / "config.json").is_file() and (not with_weights or has_weights(cached))
    if cached and complete and cache_suffices:
        return cached
    there = _names_on_hub(model, hub, revision)
    folder = _download(model, hub, revision, ["*.json"])
    if not with_weights:
        return folder
    names = choose_weights(there, folder, f"{model} on {hub}")
    folder = _download(model, hub, revision, [glob.escape(name) for name in names])
    lacking = [name for name in names if not (folder / name).is_file()]
    if lacking:
        raise UserError(f"{model} on {hub} lists {lacking[0]}, but does not give it")
    return folder


# ------------------------------------------------------------------------------------------------ which files of many
def choose_weights(names: Collection[str], folder: Path, where: str) -> list[str]:
    """The weight files to read of those there are: one, or the shards of an index in its order; safetensors first.

    `names` are a folder's, here or on a hub; its indexes lie in `folder`. A whole file goes before an index, as in
    transformers, so that a stale one misleads nobody. Raises UserError where it can't be told, saying what there is.
    """
    problems = []
    for index, endings in ((INDEX, SAFETENSORS), (PICKLE_INDEX, PICKLES)):
        try:
            if found := _of_one_format(names, folder / index, endings, where):
                return found
        except UserError as error:
            problems.append(error)
    of_open_clip = [name for name in sorted(names) if OPEN_CLIP.fullmatch(name) and _is_weights(name)]
    if of_open_clip and not problems:
        return [max(of_open_clip, key=lambda name: name.endswith(SAFETENSORS))]
    raise problems[0] if problems else UserError(_no_weights(names, where))


def _of_one_format(names: Collection[str], index: Path, endings: tuple[str, ...], where: str) -> list[str]:
    """The weight files of one format, none where there are none. Raises UserError where it can't be told of some."""
    whole, shards, problem = INDEXES[index.name], [], ""
    if whole in names:
        return [whole]
    if index.name in names:
        try:
            shards = _shards_of(index, endings)
        except UserError as error:
            problem = str(error)
        absent = [name for name in shards if name not in names]
        if shards and not absent:
            return shards
        problem = problem or f"{where} lacks {absent[0]}, a shard that its {index.name} names"
    others = [name for name in _whole_files(names, endings) if name not in shards]
    if len(others) == 1:
        return others
    if others and not problem:
        shown = ", ".join(others[:3]) + (", ..." if others[3:] else "")
        problem = f"{where} has {len(others)} files of weights ({shown}) and no {whole}: --weights FILE names one"
    if problem:
        raise UserError(problem)
    return []


def _is_weights(name: str) -> bool:
    return name.endswith(SAFETENSORS + PICKLES) and not NO_WEIGHTS.fullmatch(name)


def _whole_files(names: Collection[str], endings: tuple[str, ...]) -> list[str]:
    """Whole files of weights under names of their own."""
    found = [name for name in sorted(names) if "/" not in name and name.endswith(endings) and _is_weights(name)]
    return [name for name in found if not OPEN_CLIP.fullmatch(name) and not SHARD.fullmatch(name)]


def _no_weights(names: Collection[str], where: str) -> str:
    if ADAPTER in names:
        return f"{where} holds an adapter ({ADAPTER}) and not the weights that it changes: {MERGE}"
    shards = [name for name in sorted(names) if SHARD.fullmatch(name) and _is_weights(name)]
    if shards:
        return f"{where} has {shards[0]}, a shard, but no index of the shards ({INDEX} or {PICKLE_INDEX})"
    other = [name for name in sorted(names) if name.endswith((".h5", ".msgpack", ".npz", ".onnx", ".gguf", ".om"))]
    beside = f" (it has {other[0]}, which is not read)" if other else ""
    return f"{where} has no weights in safetensors or PyTorch's format ({', '.join(SAFETENSORS + PICKLES)}){beside}"


def _shards_of(index: Path, endings: tuple[str, ...]) -> list[str]:
    """The files that an index names, in its order."""
    try:
        names = list(dict.fromkeys(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        instead = stand_in(index)
        raise UserError(
            f"{index} {instead}" if instead else f"{index} is no index of shards: {first_line(repr(error))}"
        ) from error
    if not names:
        raise UserError(f"{index} names no shard")
    for name in names:
        plain = isinstance(name, str) and Path(name).name == name and not set(name) & set("*?[]")
        if not (plain and name.endswith(endings)):
            raise UserError(f"{index} names {name!r}, which is no {' or '.join(endings)} file of its own folder")
    return names


def unused_indexes(folder: Path, names: Sequence[str]) -> list[str]:
    """The indexes in a folder that speak of other files than those that are read, but of pickles beside safetensors."""
    found = []
    for index in (INDEX, PICKLE_INDEX):
        if (folder / index).is_file() and not (index == PICKLE_INDEX and names[0].endswith(SAFETENSORS)):
            try:
                used = _shards_of(folder / index, SAFETENSORS + PICKLES) == list(names)
            except UserError:
                used = False
            found += [] if used else [index]
    return found


def has_weights(folder: Path) -> bool:
    """Whether the weights that its own files speak of are all in a folder."""
    try:
        names = choose_weights([path.name for path in folder.iterdir()], folder, str(folder))
    except UserError:
        return False
    return all((folder / name).is_file() for name in names)


# ------------------------------------------------------------------------------------------------- the hubs' clients
def _cached(model: str, hub: str, revision: str | None) -> Path | None:
    """The snapshot's folder in the hub's cache, complete or not; None where there is none."""
    try:
        # One file that every snapshot has: huggingface_hub takes a cache that lacks others for incomplete.
        return _snapshot_download(model, hub, revision, ["config.json"], local_files_only=True)
    except Exception:  # the clients have no common exception for an empty cache; then the hub is asked, and tells why
        return None


def _download(model: str, hub: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Fetch the files that match `patterns` into the hub's cache, with the client's progress bar on standard error."""
    with _client_errors(model, hub, revision):
        return _snapshot_download(model, hub, revision, patterns, local_files_only=False)


def _names_on_hub(model: str, hub: str, revision: str | None) -> list[str]:
    """The names of a repository's files."""
    with _client_errors(model, hub, revision):
        if hub == "huggingface":
            from huggingface_hub import HfApi

            siblings = HfApi().model_info(model, revision=revision, timeout=ANSWER_SECONDS).siblings
            return [each.rfilename for each in siblings or ()]
        _make_modelscope_answer()
        from modelscope.hub.api import HubApi

        listed = HubApi().get_model_files(model, revision=revision or "master", recursive=False)
        return [str(each["Path"]) for each in listed]


@contextmanager
def _client_errors(model: str, hub: str, revision: str | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the clients raise a dozen unrelated classes; all of them mean: not fetched
        variable, public = ENDPOINTS[hub]
        where = os.environ.get(variable) or public
        what = f"{model} at {revision}" if revision else model
        raise UserError(f"{what} can't be fetched from {hub} ({where}): {_reason(error, hub)}") from error


def _snapshot_download(
    model: str, hub: str, revision: str | None, patterns: Sequence[str], local_files_only: bool
) -> Path:
    if hub == "modelscope":
        _make_modelscope_answer()
        from modelscope import snapshot_download

        revision = revision or "master"  # its cache answers None with any revision that it has
    else:
        from huggingface_hub import snapshot_download
    return Path(snapshot_download(model, revision=revision, allow_patterns=patterns, local_files_only=local_files_only))


def _make_modelscope_answer() -> None:
    """Before its client is imported: its patience is for crawlers, without a network it takes 22 s to say so."""
    os.environ.setdefault("MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS", "2")
    os.environ.setdefault("MODELSCOPE_API_MAX_RETRIES", "1")
    if not sys.stderr.isatty():
        logging.getLogger("modelscope_hub").setLevel(logging.ERROR)


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
