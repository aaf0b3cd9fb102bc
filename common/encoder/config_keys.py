"""The keys of a config.json that set a size: what a library does not know of them, it would leave out unseen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Words of a key that says how large a part of a model is, or how many there are of it; those of one part together.
ROLES = (
    {"hidden", "embed", "embedding", "embd", "dim", "dims", "d", "width", "channels", "features"},
    {"depth", "depths", "layer", "layers", "block", "blocks", "stages"},
    {"head", "heads"},
    {"intermediate", "mlp", "ffn", "feedforward"},
    *({"experts"}, {"groups"}, {"patch"}, {"window"}, {"register", "registers", "tokens"}),
)
SIZES = set().union(*ROLES)
UNSEEN = {"head", "heads", "groups", "window"}  # into how many pieces the weights are cut
# Words of a key that a model in evaluation does not compute with, whatever it counts.
OF_TRAINING = {
    *("dropout", "drop", "initializer", "init", "std", "loss", "aux", "auxiliary", "label", "labels", "mask"),
    *("freeze", "frozen", "lora", "rate", "lr", "warmup"),
}


def sizes(config: Mapping[str, Any], fitting: bool) -> list[str]:
    """The keys that say, by their name and value, how large a part of the model is, or how many there are.

    Beside `fitting` weights those alone that show in no weight.
    """
    return [key for key, value in config.items() if _sets_a_size(key, value) and (not fitting or words(key) & UNSEEN)]


def words(key: str) -> set[str]:
    return set(key.lower().split("_"))


def _sets_a_size(key: str, value: Any) -> bool:
    values = value if isinstance(value, list) and value else [value]
    counts = all(type(each) in (int, float) and each > 0 for each in values)
    return counts and bool(words(key) & SIZES) and not words(key) & OF_TRAINING
