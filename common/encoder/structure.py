"""The sizes of a transformer that people know it by, as far as its library names them."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

# Where each size is: in a transformers config, and in a timm model.
SIZES = {
    "patch_size": ("patch_size", "patch_embed.patch_size"),
    "layers": ("num_hidden_layers", "blocks"),
    "hidden_size": ("hidden_size", "embed_dim"),
    "intermediate_size": ("intermediate_size", "blocks.0.mlp.fc2.in_features"),
    "attention_heads": ("num_attention_heads", "blocks.0.attn.num_heads"),
}
OF_ONE_STAGE = {"hidden_size", "attention_heads"}  # where these are one number each, all blocks are alike


def sizes_of(model: Any) -> dict[str, int]:
    """Those of SIZES that a transformer of one stage has, each one number; of all others none."""
    config = getattr(model, "config", None)
    owner = getattr(config, "vision_config", None) or config or model
    found = {name: _number(owner, paths[owner is model]) for name, paths in SIZES.items()}
    known = {name: size for name, size in found.items() if size is not None}
    return known if known.keys() >= OF_ONE_STAGE else {}


def _number(owner: Any, path: str) -> int | None:
    """A number; one of both axes where they are the same; of blocks how many there are."""
    try:
        value = attrgetter(path)(owner)
    except AttributeError:
        return None
    if isinstance(value, (list, tuple)):
        value = value[0] if value and all(each == value[0] for each in value) else None
    elif hasattr(value, "children"):
        value = len(value)
    return value if type(value) is int else None
