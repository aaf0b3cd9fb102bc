"""Which files the paths on a command line mean, what each image is called, and what is passed over.

An image's name is its path below what all inputs have in common: of one folder the path in it; where `train` and `val`
are given, the names begin with theirs. No two images share a name, and no name says where somebody's home is.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from common.images import formats
from common.log.events import Unread
from common.log.writer import RunLog

# Kinds of files that are passed over, beside the extensions.
NO_EXTENSION, HIDDEN, BROKEN, OTHERS = "without extension", "hidden", "links to nowhere", "others"
LONGEST_EXTENSION = 12  # with its dot; a longer one is the end of a sentence
# What stands beside images: no warning of these alone.
TEXTS = {".txt", ".log", ".json", ".jsonl", ".csv", ".tsv", ".md", ".xml", ".yaml", ".yml", ".html"}
MOST_PRINTED, MOST_RECORDED = 8, 50  # kinds
HOMES = ("home", "Users")  # folders of people's homes


class File(NamedTuple):
    """An image file by its name; `found` in a folder, or else given by the user himself."""

    name: str
    path: Path
    found: bool


@dataclass
class Passed:
    """What was passed over in the folders.

    `files` counts those that are no images by their names, by kind; `hidden` folders are not entered, nor are those
    that a link leads `back` to; `closed` ones can't be searched, by their names and why.
    """

    files: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    back: int = 0
    closed: dict[str, str] = field(default_factory=dict)

    def add(self, entry: os.DirEntry[str]) -> None:
        """Count a file. A hidden one only where its name is an image's: others are no input of anybody's."""
        suffix = _suffix(entry.name)
        if entry.name.startswith("."):
            self.files.update([HIDDEN] if suffix in formats.decoded_suffixes() else [])
        elif entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110  (Path.exists may raise)
            self.files[BROKEN] += 1
        else:
            self.files[suffix if 1 < len(suffix) <= LONGEST_EXTENSION and " " not in suffix else NO_EXTENSION] += 1

    def most(self, count: int) -> dict[str, int]:
        """The files of the most frequent kinds, and of all others together."""
        kinds = dict(sorted(self.files.items(), key=lambda pair: (-pair[1], pair[0]))[:count])
        others = self.files.total() - sum(kinds.values())
        return {**kinds, OTHERS: others} if others else kinds

    def __str__(self) -> str:
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in self.most(MOST_PRINTED).items())
        told = [f"{_count(self.files.total(), 'file')}: {kinds}"] if self.files else []
        told += [_count(self.hidden, "hidden folder")] if self.hidden else []
        told += [_count(self.back, "link") + " back to a folder above"] if self.back else []
        packages = {formats.plugin_for(kind): kind for kind in self.most(MOST_PRINTED)}
        told += [f"pip install {package} reads {kind}" for package, kind in packages.items() if package]
        return "; ".join(told)

    def report(self, log: RunLog) -> None:
        """Print and record it: three images of ten thousand files must not look like all of them."""
        for module, reason in formats.register_plugins().items():
            log.line(f"warning: {module} is installed and can't be used: {reason}")
        for name, reason in self.closed.items():
            log.line(f"warning: the folder {name} is left out: it can't be searched: {reason}")
        if str(self):
            log.line(f"{'' if self.files.keys() <= TEXTS else 'warning: '}not read: {self}")
        if str(self) or self.closed:
            log.record(
                Unread(
                    files=self.files.total(),
                    kinds=self.most(MOST_RECORDED),
                    hidden_folders=self.hidden,
                    links_back=self.back,
                    closed_folders=self.closed,
                )
            )


@dataclass
class Input:
    """A path of the command line: image files by their paths below a folder, and folders that can't be searched."""

    folder: Path
    images: list[str]
    found: bool
    closed: dict[str, str] = field(default_factory=dict)


def search(paths: Sequence[Path]) -> tuple[list[File], Passed]:
    """The image files that `paths` name, folders searched in sorted order and links to folders followed.

    Raises UserError for a path that is not there, and for a folder that can't be searched or has no images.
    """
    passed = Passed()
    inputs = [_input(path, passed) for path in paths]
    labels = labels_of([each.folder for each in inputs])
    pairs = list(zip(inputs, labels, strict=True))
    passed.closed = {label + name: reason for each, label in pairs for name, reason in each.closed.items()}
    names = _numbered(label + name for each, label in pairs for name in each.images)
    return [File(next(names), each.folder / name, each.found) for each in inputs for name in each.images], passed


def _input(path: Path, passed: Passed) -> Input:
    if path.is_dir():
        return _search_folder(path, passed)
    if path.is_file():
        return Input(path.parent, [path.name], found=False)
    raise UserError(f"{path} is no regular file" if path.exists() else f"no such image: {path}")


def _search_folder(folder: Path, passed: Passed) -> Input:
    """A link is followed unless it leads back to a folder that it is in."""
    inside = Passed()
    images: list[str] = []
    pending: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(folder),))]
    while pending:
        below, above = pending.pop()
        try:
            with os.scandir(folder / below) as scanned:
                entries = list(scanned)
        except OSError as error:
            if not below:
                raise UserError(f"{folder} can't be searched: {error.strerror}") from error
            inside.closed[below] = str(error.strerror)
            continue
        for entry in entries:
            name = _join(below, entry.name)
            if _is_folder(entry):
                real = os.path.realpath(entry.path) if entry.is_symlink() else _join(above[-1], entry.name)
                if entry.name.startswith("."):
                    inside.hidden += 1
                elif real in above:
                    inside.back += 1
                else:
                    pending.append((name, (*above, real)))
            elif not entry.name.startswith(".") and _suffix(entry.name) in formats.decoded_suffixes():
                images.append(name)
            else:
                inside.add(entry)
    if not images:
        there = f"; not read: {inside}" if str(inside) else ""
        closed = f"; {_count(len(inside.closed), 'folder')} can't be searched" if inside.closed else ""
        raise UserError(f"no images in the folder {folder} (looked for names like *.jpg and *.png{there}{closed})")
    passed.files += inside.files
    passed.hidden += inside.hidden
    passed.back += inside.back
    return Input(folder, sorted(images, key=lambda name: name.split("/")), True, inside.closed)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to where nobody may look: as an image it will be refused with the reason
        return False


def labels_of(folders: Sequence[Path]) -> list[str]:
    """What the names of each folder's images begin with: its path below what all have in common.

    Where that would spell out a home, or all from the root on, it is the folder's own last part, with a number where
    two are the same.
    """
    absolute = [Path(os.path.abspath(folder)) for folder in folders]  # noqa: PTH100  (a link keeps its own name)
    common, homes = Path(os.path.commonpath(absolute)), _homes(absolute)
    if len(set(absolute)) == 1 or (common != Path("/") and not any(common in home.parents for home in homes)):
        labels = {folder: "" if folder == common else str(folder.relative_to(common)) for folder in absolute}
    else:
        distinct = list(dict.fromkeys(absolute))
        numbered = _numbered("~" if folder in homes else folder.name for folder in distinct)
        labels = dict(zip(distinct, numbered, strict=True))
    return [_join(labels[folder], "") for folder in absolute]


def _homes(folders: Iterable[Path]) -> set[Path]:
    """The homes that these are in: this user's, and folders of /home and /Users or of a mounted one (/nfs/home)."""
    homes = {Path(os.path.expanduser("~")), Path("/root")}  # noqa: PTH111  (Path's raises where there is none)
    for folder in folders:
        for depth in (1, 2):
            if len(folder.parts) > depth + 1 and folder.parts[depth] in HOMES:
                homes.add(Path(*folder.parts[: depth + 2]))
    return {home for home in homes if any(home == folder or home in folder.parents for folder in folders)}


def _numbered(names: Iterable[str]) -> Iterator[str]:
    """The names, each once: what comes again is `name (2)`."""
    counts: Counter[str] = Counter()
    given: set[str] = set()
    for name in names:
        new = name
        while new in given:
            counts[name] += 1
            new = f"{name} ({counts[name] + 1})"
        given.add(new)
        yield new


def _join(folder: str, name: str) -> str:
    """As os.path.join, without what pathlib takes for each of a million names."""
    return f"{folder}{'' if folder in ('', '/') else '/'}{name}"


def _suffix(name: str) -> str:
    """In lower case, with its dot; empty where there is none."""
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix}".lower() if stem and dot else ""


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
