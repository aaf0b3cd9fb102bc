"""The kinds of modules that make up an encoder, found in its module tree: units, none of which counts for two."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from common.accuracy.diagnosis.blocks import find_chain
from common.device import devices

# By the class's name, and by the attribute's; in timm and in transformers.
NORM = re.compile(r"norm", re.IGNORECASE)
ACTIVATION = re.compile(r"gelu|relu|silu|swish|mish|^c?elu$|tanh|sigmoid|activation$", re.IGNORECASE)
ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)
GATE = re.compile(r"channel|spatial|squeeze|bottleneck|cbam", re.IGNORECASE)  # of convnets: no attention of tokens
# In transformers an MLP may be two modules, SwinIntermediate and SwinOutput; SwinSelfOutput is the attention's.
MLP = re.compile(r"mlp|feedforward|ffn|glu$|intermediate|(?<!self)output$", re.IGNORECASE)
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
CONVOLUTION = nn.modules.conv._ConvNd
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
    parts = _called(module, pixel_values)
    attends = any(_coarse(name, part) == "attention" for name, part in parts.items())
    stages = [] if attends else _stages(module, parts)
    units: dict[str, Unit] = {}
    for name, part in parts.items():
        around = _around(name, units)
        kind = _inner_kind(name, part, around) if around else _kind(name, part, stages)
        if kind:
            units[name] = Unit(name, kind, part, around.name if around else None)
    return list(units.values())


def _called(module: nn.Module, pixel_values: Tensor) -> dict[str, nn.Module]:
    """The modules that a forward calls, by their qualified names, in the order of the tree; without the encoder."""
    called: set[nn.Module] = set()
    parts = dict(module.named_modules())
    del parts[""]
    handles = [part.register_forward_pre_hook(lambda part, _: called.add(part)) for part in parts.values()]
    try:
        devices.forward(module, pixel_values)
    finally:
        for handle in handles:
            handle.remove()
    return {name: part for name, part in parts.items() if part in called}


def _stages(module: nn.Module, parts: dict[str, nn.Module]) -> list[str]:
    """The names of a convolutional network's stages: the lists of its main chain, or what the only one holds, but for
    the blocks of a long chain; where there is none, what is called a stage.
    """
    names = find_chain(module)
    if len(names) == 1:
        names = [f"{names[0]}.{leaf}" for leaf, _ in module.get_submodule(names[0]).named_children()]
    if 2 <= len(names) <= MOST_STAGES and all(name in parts and _convolves(parts[name]) for name in names):
        return names
    return [name for name, part in parts.items() if STAGE.search(type(part).__name__)]


def _convolves(module: nn.Module) -> bool:
    """Whether it holds a convolution, and is none itself."""
    return any(isinstance(part, CONVOLUTION) for part in module.modules() if part is not module)


def _around(name: str, units: dict[str, Unit]) -> Unit | None:
    """The unit that a module lies in."""
    while name:
        name = name.rpartition(".")[0]
        if name in units:
            return units[name]
    return None


def _kind(name: str, module: nn.Module, stages: Sequence[str]) -> str | None:
    """What a module is that lies in no unit; None for a block or a list of them, and for what multiplies nothing."""
    *path, leaf = name.split(".")
    if not re.search(r"\d", ".".join(path)):  # in no block
        if leaf in HEAD_NAMES:
            return "head"
        if leaf in STEM_NAMES:
            return "stem"
    if name in stages:
        return f"stage {stages.index(name)}"
    if kind := _fine(module) or _coarse(name, module):
        return kind
    if any(module.children()) or not _multiplies(module):
        return None
    return "convolution" if isinstance(module, CONVOLUTION) else "projection"


def _inner_kind(name: str, module: nn.Module, around: Unit) -> str | None:
    """What a module is that lies in a unit; None for a part of that unit."""
    kind = _fine(module)
    if around.kind in ("norm", "activation"):  # a norm may hold the activation behind it
        return kind if (kind, around.kind) == ("activation", "norm") else None
    if kind is None and around.kind.startswith("stage ") and _coarse(name, module) == "mlp":
        return "mlp"
    return kind


def _fine(module: nn.Module) -> str | None:
    """A norm or an activation; both have no matrix."""
    kind = type(module).__name__
    if _multiplies(module) or isinstance(module, nn.Identity):
        return None
    return "norm" if NORM.search(kind) else "activation" if ACTIVATION.search(kind) else None


def _coarse(name: str, module: nn.Module) -> str | None:
    """An attention, an MLP or an embedding of patches, and not a block that is called after one and holds several.

    An attention may hold an MLP, which gives the biases of relative positions.
    """
    kind = _named(name, module)
    if kind is None:
        return None
    inner = {_named(path, part) for path, part in module.named_modules(prefix=name) if part is not module}
    biases = {"mlp"} if kind == "attention" and kind not in inner else set()
    return None if inner - {None, kind} - biases else kind


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
