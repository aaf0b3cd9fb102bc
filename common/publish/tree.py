"""A folder that is written whole or not at all. Standard library only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from common.errors import UserError
from common.log.writer import ROOT

OURS = {"verdict.json", "screenshot.txt", "check_accuracy_run_perf.py"}  # a folder that has them is one of --publish
GIT = ".git"  # stays, so that a published port can be published again
# What a hub lays into a new repository.
BLANK = {"README.md", ".gitattributes", ".gitignore", "LICENSE", "configuration.json"}


def require_free(folder: Path, force: bool) -> None:
    """Raise UserError for a folder that must not be written: there is something in it, or it is not ours to replace."""
    place = folder.resolve()
    if place in (ROOT, *ROOT.parents) or ROOT / "common" in (place, *place.parents):
        raise UserError(f"--publish {folder}: the scripts that run are there; name another folder")
    if place in (Path.cwd(), *Path.cwd().parents):
        raise UserError(f"--publish {folder} is the current folder, or around it: go to another one first")
    _recover(place)
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UserError(f"--publish {folder} is no folder")
    there = {path.name for path in folder.iterdir()}
    if there <= {GIT}:
        return
    if not there >= OURS and not (GIT in there and there <= {GIT, *BLANK}):
        raise UserError(f"--publish {folder} is there, and not of its making: empty it, or name another folder")
    if not force:
        raise UserError(f"--publish {folder} is there already; --force replaces all of it but {GIT}")


def write(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files by their paths into the folder, in place of all that it holds but its GIT.

    They are written beside it, and then it is exchanged: whenever that ends, it is the old one or the new one, whole.
    Raises UserError where that can't be done.
    """
    place = folder.resolve()
    new, _ = _beside(place)
    try:
        for name, content in contents.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        _exchange(place)
    except BaseException as error:
        shutil.rmtree(new, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise UserError(f"--publish {folder} can't be written: {error.strerror}") from error


def _beside(place: Path) -> tuple[Path, Path]:
    """What is being written, and what it replaces."""
    return place.with_name(f".{place.name}.new"), place.with_name(f".{place.name}.old")


def _exchange(place: Path) -> None:
    new, old = _beside(place)
    if place.exists():
        place.rename(old)
    try:
        _move(old / GIT, new / GIT)
        new.rename(place)
    except BaseException:
        _move(new / GIT, old / GIT)
        _move(old, place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _move(path: Path, target: Path) -> None:
    if path.exists():
        path.rename(target)


def _recover(place: Path) -> None:
    """End what was cut: an exchange that had begun, or the writing before it."""
    new, old = _beside(place)
    if old.exists() and not place.exists():
        _exchange(place) if new.exists() else _move(old, place)
    for leftover in (new, old):
        if leftover.exists():
            shutil.rmtree(leftover)
