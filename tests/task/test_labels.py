"""Labels: an image's own folder or a row of a table, and which of a model's classes each of them is."""

from __future__ import annotations

from pathlib import Path

import pytest
from timm.data import ImageNetInfo

from common.encoder import class_names
from common.encoder.base import OwnClasses
from common.errors import UserError
from common.task import labels
from common.task.labels import Labels

IMAGES = ["cat/1.png", "cat/2.png", "dog/1.png"]
ANIMALS = ["Egyptian cat", "dog, domestic dog", "crane", "crane", "great_white-shark"]


def animal(index: int) -> str | None:
    return ANIMALS[index]


def indices(*texts: str) -> dict[str, int] | None:
    return labels.indices_of(Labels(list(texts), labels.FOLDERS), OwnClasses(len(ANIMALS), animal))


# --------------------------------------------------------------------------------------------------------- by folders
def test_an_image_has_the_label_of_its_own_folder() -> None:
    assert labels.labels_of(IMAGES, None) == Labels(["cat", "cat", "dog"], "folders")
    nested = labels.labels_of(["train/cat/1.png", "val/cat/1.png", "val/dog/1.png"], None)
    assert nested is not None
    assert nested.different == ["cat", "dog"]


@pytest.mark.parametrize(("images", "wanted"), [(["1.png", "2.png"], None), (IMAGES, "none")])
def test_images_without_labels(images: list[str], wanted: str | None) -> None:
    assert labels.labels_of(images, wanted) is None


def test_an_image_outside_the_folders_is_an_error() -> None:
    with pytest.raises(UserError, match=r"^3\.png is in no folder that is its class, and others are: --labels"):
        labels.labels_of([*IMAGES, "3.png"], None)


# --------------------------------------------------------------------------------------------------------- by a table
def table(folder: Path, text: str | bytes) -> str:
    path = folder / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        "cat/1.png,tabby\ncat/2.png,tabby\ndog/1.png,a dog\n",
        "\ufeffname,label\r\ndog/1.png,a dog\r\ncat/2.png, tabby \r\n\r\ncat/1.png,tabby\r\nother.png,fish\r\n",
        '"cat/1.png","tabby",0.5\ncat/2.png,tabby\ncat/2.png,tabby\ndog/1.png,a dog',
    ],
)
def test_a_table_gives_every_image_its_label(text: str, tmp_path: Path) -> None:
    """With a heading, a byte order mark, other columns, other images, and the same row twice."""
    assert labels.labels_of(IMAGES, table(tmp_path, text)) == Labels(["tabby", "tabby", "a dog"], "labels.csv")


BAD_TABLES = {
    "an image without a label": (
        "cat/1.png,a\ncat/2.png,a\n",
        r"has no label of the image dog/1\.png; names are",
    ),
    "several without": ("cat/1.png,a\n", r"has no label of the image cat/2\.png and 1 more"),
    "an empty label": ("cat/1.png,\ncat/2.png,a\ndog/1.png,b\n", r"has no label of the image cat/1\.png"),
    "two labels": ("cat/1.png,a\ncat/1.png,b\n", r"has two labels of cat/1\.png: a and b"),
    "no comma": ("cat/1.png;a\n", "'cat/1.png;a' is no row of a name and a label"),
    "no text": (b"\xff\xfe\x00,\n", "is no CSV file in UTF-8"),
    "nothing": ("", r"has no label of the image cat/1\.png and 2 more"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_table_that_does_not_fit_is_an_error(name: str, tmp_path: Path) -> None:
    text, reason = BAD_TABLES[name]
    with pytest.raises(UserError, match=reason):
        labels.labels_of(IMAGES, table(tmp_path, text))


@pytest.mark.parametrize("path", ["nosuch.csv", "."])
def test_a_table_that_is_none_is_an_error(path: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be read"):
        labels.labels_of(IMAGES, str(tmp_path / path))


# -------------------------------------------------------------------------------------------- a model's own classes
def test_a_label_is_a_class_by_its_index_or_its_text() -> None:
    found = indices("0", "egyptian_cat", "domestic dog", "Dog", "great white shark", "3")
    expected = {"0": 0, "egyptian_cat": 0, "domestic dog": 1, "Dog": 1, "great white shark": 4, "3": 3}
    assert found == expected


def test_labels_none_of_which_is_a_class_are_not_the_models() -> None:
    assert indices("2024", "summer", "") is None


@pytest.mark.parametrize("text", ["5", "-1", "0x1", "1.0", "cats", "²"])
def test_a_label_that_is_no_class_beside_others_is_an_error(text: str) -> None:
    with pytest.raises(UserError, match=r"1 of 2 labels are no class of the model \(.*below 5.*'Egyptian cat'"):
        indices("dog", text)


def test_a_text_of_two_classes_is_an_error() -> None:
    with pytest.raises(UserError, match="the label crane may be several classes of the model: 2, 3"):
        indices("crane", "dog")


def test_imagenets_classes_have_their_wordnet_ids() -> None:
    known = ImageNetInfo("imagenet-1k")
    given = Labels(["n02123597", "n02012849", "n03126707", "tench"], labels.FOLDERS)
    found = labels.indices_of(given, OwnClasses(1000, known.index_to_description))
    assert found == {"n02123597": 284, "n02012849": 134, "n03126707": 517, "tench": 0}


@pytest.mark.parametrize(("classes", "name"), [(1000, "plant"), (7, "tench")])
def test_other_classes_have_none(classes: int, name: str) -> None:
    assert class_names.wordnet_ids(lambda index: f"{name} {index}", classes) == []
    given = Labels(["n02123597"], labels.FOLDERS)
    assert labels.indices_of(given, OwnClasses(classes, lambda index: f"{name} {index}")) is None
