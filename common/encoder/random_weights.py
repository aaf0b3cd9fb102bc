"""Random weights: seeded, for a model without a checkpoint, such that every operator matters to the output."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from common.device.float64 import in_float64, sharing_weights
from common.encoder.weights import KeyReport, State, assign_state, compare_state

RECIPE = 2  # raise it when make_state changes: the recipe's hash identifies the weights
GAIN_SPREAD = 0.2
BIAS_SPREAD = 0.1
TOKEN_STD = 0.5  # class tokens, position embeddings and bias tables, beside patches of variance 1


def assign(built: nn.Module, seed: int) -> tuple[str, Callable[[], str], KeyReport]:
    """Give a model that was built on meta seeded weights, and say what they are."""
    state = make_state(built, seed)
    report = compare_state(built, state)
    report.require_fit(type(built).__name__, "the random recipe")
    assign_state(built, state)
    return "random", partial(recipe_sha256, built, type(built).__name__, seed), report


def make_state(module: nn.Module, seed: int) -> State:
    """Seeded weights for a module built on meta, such that every operator matters to the output.

    The libraries' own initialisations hide whole branches (LayerScale at 1e-5, biases and class tokens at 0). Here
    gains of norms and scales are about 1, linear and convolution weights keep the variance of their input (uniform
    with standard deviation 1/sqrt(fan_in)), biases and running means are small, tokens and tables are comparable with
    what they are added to. Each tensor has a generator of its own, from the seed and its name. A convolutional network
    asks for `settle_batch_norms` too.
    """
    state: State = {}
    shared: dict[int, Tensor] = {}  # a module that has two names (CoaT), a weight that two modules have
    for prefix, owner in module.named_modules(remove_duplicate=False):
        for name, parameter in owner.named_parameters(prefix, recurse=False):
            if id(parameter) not in shared:
                shared[id(parameter)] = _random_tensor(name, parameter.shape, _is_multiplied(owner, name), seed)
            state[name] = shared[id(parameter)]
        for name, buffer in owner.named_buffers(prefix, recurse=False):
            leaf = name.rpartition(".")[2]
            if leaf in ("running_mean", "running_var"):
                state[name] = _random_tensor(name, buffer.shape, False, seed)
            elif leaf not in owner._non_persistent_buffers_set:
                state[name] = buffer
    return state


def _is_multiplied(owner: nn.Module, name: str) -> bool:
    """Whether the owner multiplies this parameter with its input, as linear and convolution layers do."""
    return name.endswith("weight") and not isinstance(owner, nn.Embedding)


def _random_tensor(name: str, shape: torch.Size, multiplied: bool, seed: int) -> Tensor:
    leaf = name.rpartition(".")[2]
    center, spread = 0.0, TOKEN_STD * math.sqrt(3)
    if (leaf.endswith("bias") and len(shape) < 2) or leaf == "running_mean":
        spread = BIAS_SPREAD
    elif len(shape) < 2:
        center, spread = 1.0, GAIN_SPREAD
    elif multiplied:
        spread = math.sqrt(3 / math.prod(shape[1:]))  # uniform on [-s, s] has the variance s^2 / 3
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8]))
    return torch.empty(shape).uniform_(center - spread, center + spread, generator=generator)


def settle_batch_norms(module: nn.Module, input_size: Sequence[int], seed: int) -> None:
    """Scale the statistics of every batch norm of an encoder with random weights to those of its own input.

    With others nothing normalises: activation functions halve the signal layer by layer, and what is left at the end
    of a deep network are its biases. The variance that is set is the mean square of the input over all channels. Taking
    each channel's mean away too, or its own variance, would be nearer to training, but the statistics are of one image:
    in another one what differs from them grew by a tenth in each layer, a thousandfold in the deepest networks.

    That image is a seeded one [C, H, W], computed in float64, so that every machine finds the same statistics to the
    last bit of float32.
    """
    norms: dict[str, Any] = {name: norm for name, norm in module.named_modules() if _has_statistics(norm)}
    if not norms:
        return
    own = sharing_weights(module).eval()
    found: State = {}

    def settle(name: str, norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        found[name] = args[0].square().mean()
        norm.running_mean, norm.running_var = _scaled(norms[name], found[name])

    for name in norms:
        own.get_submodule(name).register_forward_pre_hook(partial(settle, name))
    with in_float64():
        own(_noise_image(input_size, seed))
    for name, mean_square in found.items():
        mean, variance = _scaled(norms[name], mean_square)
        norms[name].running_mean, norms[name].running_var = mean.float(), variance.float()


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None


def _scaled(norm: Any, mean_square: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and variance that make_state gave, which fit an input of mean square 1, for another one."""
    return norm.running_mean * mean_square.sqrt(), norm.running_var * mean_square


def _noise_image(input_size: Sequence[int], seed: int) -> Tensor:
    """An image [1, C, H, W] with as much of each size of detail, as photos have it; plain noise has no areas."""
    channels, height, width = input_size
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(1, channels, height, width, dtype=torch.float64)
    side = 2
    while side <= max(height, width):
        octave = torch.randn(1, channels, side, side, generator=generator, dtype=torch.float64)
        image += nn.functional.interpolate(octave, (height, width), mode="bilinear")
        side *= 2
    return image / image.std()


def recipe_sha256(module: nn.Module, architecture: str, seed: int) -> str:
    """What identifies random weights: the recipe, the seed, the architecture and every shape."""
    shapes = {name: list(value.shape) for name, value in module.state_dict().items()}
    recipe = json.dumps([RECIPE, seed, architecture, shapes])
    return hashlib.sha256(recipe.encode()).hexdigest()
