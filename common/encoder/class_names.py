"""Names of a timm classifier's classes: the checkpoint's own, or ImageNet's where its config says that it is that."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

OWN_NAMES = ("label_names", "labels", "id2label")  # `labels` is what timm called them first
# The data set that a tag of timm's names last: in1k, in21k_ft_in1k, fb_in22k; not in1k_ft_food101.
IMAGENET = re.compile(r"(?:^|_)(?:in|imagenet)-?(?:1|12|21|22)k(?!.*_ft_)", re.IGNORECASE)
ALIKE = 0.9  # of ImageNet's classes, by their names, where a model's are these

Label = Callable[[int], str | None]


def of_timm(built: Any, config: dict[str, Any], tag: str) -> tuple[Label | None, list[str]]:
    """What names a class by its index, None where nothing does, and notes for people.

    `config` is the checkpoint's config.json, empty for a model of timm's registry; `tag` what timm calls its training.
    """
    classes = built.num_classes
    places = [
        place for place in (config, config.get("pretrained_cfg"), built.pretrained_cfg) if isinstance(place, dict)
    ]
    for place in places:
        for key in OWN_NAMES:
            if place.get(key):
                names = _by_index(place[key])
                if names is None or max(names) >= classes or (isinstance(place[key], list) and len(names) != classes):
                    return None, [f"no class names are shown: {key} of its config does not fit {classes} classes"]
                return _described(names, place.get("label_descriptions")).get, []
    return _imagenet(built.num_classes, tag), []


def _by_index(names: Any) -> dict[int, str] | None:
    """A list of names, or an object from index to name, which may have gaps; None for anything else."""
    pairs = enumerate(names) if isinstance(names, list) else names.items() if isinstance(names, dict) else ()
    found = {}
    for index, name in pairs:
        if not isinstance(name, str) or not re.fullmatch(r"\d+", str(index)):
            return None
        found[int(index)] = name
    return found or None


def _described(names: dict[int, str], descriptions: Any) -> dict[int, str]:
    """Each name by its description, where there is one: as timm does for ImageNet, whose names are synsets."""
    texts = descriptions if isinstance(descriptions, dict) else {}
    return {index: text if isinstance(text := texts.get(name), str) else name for index, name in names.items()}


def _imagenet(classes: int, tag: str) -> Label | None:
    """Of a model whose tag says that it classifies ImageNet; a count of classes alone says nothing."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": classes})
    if not (subset and IMAGENET.search(tag)):
        return None
    label: Label = ImageNetInfo(subset).index_to_description
    return label


def wordnet_ids(label: Label, classes: int) -> list[str]:
    """The WordNet ids of ImageNet's classes in their order, where the classes of a model are these by their names."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": classes})
    if not subset:
        return []
    known = ImageNetInfo(subset)
    same = sum(label(index) == known.index_to_description(index) for index in range(classes))
    ids: list[str] = known.label_names()
    return ids if same >= ALIKE * classes else []
