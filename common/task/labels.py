"""Which class an image is of, by the folder that it is in or by a table, and which of a model's own classes that is."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.encoder import class_names
from common.encoder.base import OwnClasses
from common.errors import UserError
from common.log.tasks import FOLDERS, class_of

NO_LABELS = "none"  # of --labels
CROP = re.compile(r" crop \d+$")  # behind the name of an image: what is cut from it has its label
SHOWN = 3  # labels or images in a message


class Labels(NamedTuple):
    """The label of each image, as a text, and where it is from: FOLDERS, or the name of a file."""

    texts: list[str]
    source: str

    @property
    def different(self) -> list[str]:
        return sorted(set(self.texts))


def labels_of(images: Sequence[str], wanted: str | None) -> Labels | None:
    """The labels of images by their names: of the file that is `wanted`, or of their folders; None where there are
    none, or none are wanted. Raises UserError where some have a label and others have not.
    """
    if wanted == NO_LABELS:
        return None
    if wanted is not None:
        return Labels(_from_table(Path(wanted), images), Path(wanted).name)
    folders = [class_of(image) for image in images]
    if not any(folders):
        return None
    if None in folders:
        outside = images[folders.index(None)]
        raise UserError(
            f"{outside} is in no folder that is its class, and others are: --labels FILE.csv names labels, --labels "
            f"{NO_LABELS} does without"
        )
    return Labels([folder for folder in folders if folder], FOLDERS)


def _from_table(path: Path, images: Sequence[str]) -> list[str]:
    """The label of each image from rows of a name and a label; rows of other names, as a heading is, are none of ours.

    Raises UserError for what is no such table, and for an image without a label or with two.
    """
    found: dict[str, str] = {}
    wanted = set(images)
    known = wanted | {CROP.sub("", image) for image in images}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.reader(file):
                if not row:
                    continue
                if len(row) < 2:
                    raise UserError(f"{path}: {row[0][:60]!r} is no row of a name and a label, with a comma between")
                name, label = row[0].strip(), row[1].strip()
                if name in known and found.setdefault(name, label) != label:
                    raise UserError(f"{path} has two labels of {name}: {found[name]} and {label}")
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV file in UTF-8: {error}") from error
    found |= {image: found.get(CROP.sub("", image), "") for image in wanted - found.keys()}
    lacking = [image for image in images if not found[image]]
    if lacking:
        more = f" and {len(lacking) - 1:,} more" if len(lacking) > 1 else ""
        raise UserError(f"{path} has no label of the image {lacking[0]}{more}; names are those in the log")
    return [found[image] for image in images]


def indices_of(labels: Labels, own: OwnClasses) -> dict[str, int] | None:
    """Which of a model's own classes each label is: by its index, its WordNet id, or its text.

    None where no label is one of its classes. Raises UserError where some are, for one that is not or may be several.
    """
    names = _names_of(own)
    found = {text: _index_of(text, names, own.count) for text in labels.different}
    unknown = [text for text, index in found.items() if index is None]
    if len(unknown) == len(found):
        return None
    if unknown:
        raise UserError(
            f"{len(unknown)} of {len(found)} labels are no class of the model ({', '.join(unknown[:SHOWN])}): a label "
            f"is an index below {own.count}, a WordNet id, or a class by its text, such as {own.label(0)!r}"
        )
    return {text: index for text, index in found.items() if index is not None}


def _names_of(own: OwnClasses) -> dict[str, set[int]]:
    """The classes by all their names: the text, each of its parts between commas, and the WordNet id."""
    found: dict[str, set[int]] = {}
    ids = class_names.wordnet_ids(own.label, own.count)
    for index in range(own.count):
        text = own.label(index) or ""
        parts = [text, *text.split(","), *ids[index : index + 1]]
        for part in parts:
            found.setdefault(_plain(part), set()).add(index)
    found.pop("", None)
    return found


def _index_of(text: str, names: dict[str, set[int]], classes: int) -> int | None:
    if text.isascii() and text.isdigit():
        return int(text) if int(text) < classes else None
    found = sorted(names.get(_plain(text), ()))
    if len(found) > 1:
        raise UserError(
            f"the label {text} may be several classes of the model: {', '.join(map(str, found))}; name its folder by "
            "the index or the WordNet id"
        )
    return found[0] if found else None


def _plain(text: str) -> str:
    """A name without what a folder's differs in: case, and `_` or `-` for a space."""
    return re.sub(r"[\s_-]+", " ", text).strip().casefold()
