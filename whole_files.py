"""Files that are written whole or not at all. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from options import UserError


def write_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files, by name, into a folder, which is made where it is missing.

    They are written aside, and renamed once all are there. Raises UserError when one of them can't be written.
    """
    partial = {folder / name: folder / f"{name}.part" for name in contents}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in zip(partial.values(), contents.values(), strict=True):
            path.write_bytes(content)
        for target, path in partial.items():
            path.replace(target)
    except OSError as error:
        remove(partial.values())
        named = error.filename or folder
        raise UserError(f"{str(named).removesuffix('.part')} can't be written: {error.strerror}") from error


def write_one(path: Path, content: bytes) -> None:
    write_all(path.parent, {path.name: content})


def remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)
