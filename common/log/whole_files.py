"""Files that are written whole or not at all. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from common.errors import UserError, first_line


@contextmanager
def aside(path: Path, *errors: type[Exception]) -> Iterator[Path]:
    """A name to write to; at the end of the block the file gets its own: nobody ever finds half of it.

    Raises UserError where the disk is full or the folder can't be written; `errors` are what a library says so with.
    """
    new = path.with_name(path.name + ".new")
    try:
        yield new
        new.replace(path)
    except BaseException as error:  # an interrupt leaves no half file either
        with suppress(OSError):
            new.unlink(missing_ok=True)
        if not isinstance(error, (OSError, *errors)):
            raise
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{path} can't be written: {reason}") from error


def write_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files, by name, into a folder, which is made where it is missing.

    They get their names once all are there. Raises UserError when one of them can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} can't be written: {error.strerror}") from error
    with ExitStack() as stack:
        for name, content in contents.items():
            stack.enter_context(aside(folder / name)).write_bytes(content)


def write_one(path: Path, content: bytes) -> None:
    write_all(path.parent, {path.name: content})
