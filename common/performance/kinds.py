"""The kinds of modules that make up an encoder, found in its module tree: units, none of which counts for two."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from common.accuracy.diagnosis.blocks import find_chain
from common.device import devices

# By the class's name, and by the attribute's; in timm and in transformers.
NORM = re.compile(r"norm", re.IGNORECASE)
ACTIVATION = re.compile(r"gelu|relu|silu|swish|mish|^c?elu$|tanh|sigmoid|activation$", re.IGNORECASE)
ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)
GATE = re.compile(r"channel|spatial|squeeze|bottleneck|cbam", re.IGNORECASE)  # of convnets: no attention of tokens
MLP = re.compile(r"mlp|feedforward|ffn|glu$|intermediate", re.IGNORECASE)
PATCH_EMBED = re.compile(r"patchembed|embeddings?$", re.IGNORECASE)
STAGE = re.compile(r"stage$", re.IGNORECASE)
ATTENTION_NAMES = {"attn", "attention", "self_attn", "self_attention"}
MLP_NAMES = {"mlp", "ffn", "feed_forward", "intermediate"}
PATCH_EMBED_NAMES = {"patch_embed", "patch_embedding", "patch_embeddings", "embeddings"}
STEM_NAMES = {"stem", "conv_stem", "embedder", "conv1"}
HEAD_NAMES = {
    *("head", "head_dist", "head_fc", "fc", "classifier", "conv_head", "global_pool", "attn_pool"),
    *("pooler", "visual_projection", "vision_projection"),
}
LISTS = (nn.ModuleList, nn.ModuleDict)
MOST_STAGES = 12  # a longer chain is one of blocks


@dataclass(frozen=True)
class Unit:
    """A module that counts as one of its kind; `around` is the name of the unit that it lies in, if any: that one is
    timed without it.
    """

    name: str
    kind: str
    module: nn.Module
    around: str | None = None


def find_units(module: nn.Module, pixel_values: Tensor) -> list[Unit]:
    """The units of an encoder, of the modules that a forward of pixel_values [1, 3, H, W] calls, in their order.

    The outermost attention, MLP, head or embedding is one, and so are norms and activations wherever they are. Of a
    network without attention the stages are, without the MLPs in them. Other convolutions and linear layers are kinds
    of their own, so that no matrix product of a layer is left out.
    """
    called = {name: found for name, found in _called(module, pixel_values).items() if not isinstance(found, LISTS)}
    attends = any(_coarse(name, found) == "attention" for name, found in called.items())
    stages = {} if attends else {name: f"stage {at}" for at, name in enumerate(_stages(module, called))}
    return list(_units_in("", module, called, stages, None, set()))


def _called(module: nn.Module, pixel_values: Tensor) -> dict[str, nn.Module]:
    """The modules that a forward calls, by their qualified names; the encoder itself is none of its parts."""
    found: dict[str, nn.Module] = {}

    def note(name: str) -> nn.Module:
        return found.setdefault(name, module.get_submodule(name))

    handles = [
        part.register_forward_pre_hook(lambda *_, name=name: note(name) and None)
        for name, part in module.named_modules()
        if name
    ]
    try:
        devices.forward(module, pixel_values)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _stages(module: nn.Module, called: dict[str, nn.Module]) -> list[str]:
    """The names of a network's stages: the lists of its main chain, or what the only one holds; none of a chain of
    blocks. Where there is no such chain, those that are called a stage.
    """
    names = find_chain(module)
    if len(names) == 1:
        names = [f"{names[0]}.{leaf}" for leaf, _ in module.get_submodule(names[0]).named_children()]
    parts = [called[name] for name in names if name in called]
    if 2 <= len(parts) == len(names) <= MOST_STAGES and all(any(part.children()) for part in parts):
        return names
    return [name for name, found in called.items() if STAGE.search(type(found).__name__)][:MOST_STAGES]


def _units_in(
    name: str,
    module: nn.Module,
    called: dict[str, nn.Module],
    stages: dict[str, str],
    around: Unit | None,
    seen: set[int],
) -> Iterator[Unit]:
    """The units in a module, itself among them; each module once, though it may have two names."""
    if id(module) in seen:
        return
    seen.add(id(module))
    kind = _kind(name, module, stages, around) if name in called else None
    if kind is not None:
        around = Unit(name, kind, module, around.name if around else None)
        yield around
    for leaf, child in module.named_children():
        yield from _units_in(f"{name}.{leaf}" if name else leaf, child, called, stages, around, seen)


def _kind(name: str, module: nn.Module, stages: dict[str, str], around: Unit | None) -> str | None:
    """What a module is as a unit; None for what is none, or a part of the unit around it."""
    if around is None or around.kind not in ("norm", "activation"):
        if fine := _fine(module):
            return fine if around is None or around.kind != fine else None
    elif around.kind == "norm":
        return "activation" if _fine(module) == "activation" else None
    if around is not None and not around.kind.startswith("stage "):
        return None
    coarse = _coarse(name, module)
    if around is not None:
        return coarse if coarse == "mlp" else None
    if name in stages:
        return stages[name]
    *_, leaf = name.split(".")
    if not any(part.isdecimal() for part in name.split(".")):
        if leaf in HEAD_NAMES:
            return "head"
        if leaf in STEM_NAMES or "stem" in type(module).__name__.lower():
            return "stem"
    if coarse:
        return coarse
    if any(module.children()):
        return None
    if isinstance(module, nn.modules.conv._ConvNd):
        return "convolution"
    return "projection" if _multiplies(module) else None


def _fine(module: nn.Module) -> str | None:
    """A norm or an activation; both have no matrix."""
    kind = type(module).__name__
    if _multiplies(module) or isinstance(module, nn.Identity):
        return None
    return "norm" if NORM.search(kind) else "activation" if ACTIVATION.search(kind) else None


def _coarse(name: str, module: nn.Module) -> str | None:
    """An attention, an MLP or an embedding of patches, and not a block that holds several of them."""
    if not _multiplies(module):
        return None
    found = {kind for path, part in module.named_modules(prefix=name) if (kind := _named(path, part))}
    return _named(name, module) if len(found) == 1 else None


def _named(name: str, module: nn.Module) -> str | None:
    leaf, kind = name.rpartition(".")[2], type(module).__name__
    if not _multiplies(module):
        return None
    if (leaf in ATTENTION_NAMES or ATTENTION.search(kind)) and not GATE.search(kind):
        return "attention"
    if leaf in MLP_NAMES or MLP.search(kind):
        return "mlp"
    return "patch_embed" if leaf in PATCH_EMBED_NAMES or PATCH_EMBED.search(kind) else None


def _multiplies(module: nn.Module) -> bool:
    """Whether it holds a matrix or the weights of a convolution."""
    return any(parameter.ndim >= 2 for parameter in module.parameters())
