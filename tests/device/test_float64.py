"""Golden: float64 on the CPU equals module.double(), without a second copy of the weights and without a lost digit."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import timm
import torch
from conftest import ROOT, TINY_VIT
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from common.accuracy import reference
from common.device import devices
from common.encoder import random_weights, timm_models, transformers_models
from common.errors import UserError

TIMM = (
    "test_vit",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "eva02_tiny_patch14_224",
    "levit_128s",
    "tf_efficientnet_lite0",
)


def timm_module(architecture: str) -> nn.Module:
    model = timm.create_model(architecture)
    model.load_state_dict(random_weights.make_state(model, 0))
    return timm_models.TimmModule(model)


def transformers_module(model_type: str) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    sizes = {key: value for key, value in TINY_VIT.items() if isinstance(value, int)}
    return transformers_models.TransformersModule(AutoModel.from_config(AutoConfig.for_model(model_type, **sizes)))


def pixels(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def assert_near(found: devices.Outputs, expected: devices.Outputs) -> None:
    """Within 1e-12 of the norm, in float64."""
    for f, e in zip(found, expected, strict=True):
        assert f.dtype == e.dtype == torch.float64
        assert f.shape == e.shape
        assert float((f - e).norm() / e.norm()) <= 1e-12


def check_against_double(module: nn.Module, pixel_values: Tensor) -> None:
    """Golden is module.double()'s output, and leaves the module as it was: its weights, and what its forward caches."""
    module.eval().requires_grad_(False)
    before = devices.forward(module, pixel_values)
    found = reference.forward_in_float64(module, pixel_values)
    with torch.no_grad():
        expected = copy.deepcopy(module).double()(pixel_values.double())
    assert_near(found, expected)
    assert all(0 < float((f - b).norm() / f.norm()) < 1e-4 for f, b in zip(found, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(devices.forward(module, pixel_values), before, strict=True))
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("architecture", TIMM)
def test_timm_equals_double(architecture: str) -> None:
    check_against_double(timm_module(architecture), pixels(2, 160 if architecture == "test_vit" else 224))


@pytest.mark.parametrize("model_type", ["vit", "dinov2"])
def test_transformers_equals_double(model_type: str) -> None:
    check_against_double(transformers_module(model_type), pixels(2, 32))


def test_what_a_forward_caches_in_float64_does_not_stay() -> None:
    """levit keeps its gathered biases: golden first, then float32, as if golden had not been."""
    module = timm_module("levit_128s").eval().requires_grad_(False)
    reference.forward_in_float64(module, pixels(1, 224))
    assert {output.dtype for output in devices.forward(module, pixels(1, 224))} == {torch.float32}


# ------------------------------------------------------------------------------------------------- one operator
class Apply(nn.Module):
    """Calls a function with the input, a float32 weight [3] and a float16 buffer [3]; both outputs are its result."""

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.tensor([0.1, 0.2, 0.3]), requires_grad=False)
        self.register_buffer("scale", torch.tensor([0.5, 0.25, 3.0], dtype=torch.float16))

    def forward(self, pixel_values: Tensor) -> devices.Outputs:
        output = self.function(pixel_values[:, :, 0, 0], self.weight, self.scale)
        return output, output


def third(x: Tensor) -> Tensor:
    """A value that float32 can't hold."""
    return x.double() / 3


W = torch.tensor([0.1, 0.2, 0.3]).double()
H = torch.tensor([0.5, 0.25, 3.0]).double()
Operator = Callable[[Tensor, Tensor, Tensor], Tensor]
KEPT: dict[str, tuple[Operator, Callable[[Tensor], Tensor]]] = {
    "to the weight's dtype": (lambda x, w, h: (x / 3).to(w.dtype), third),
    "to a dtype by keyword": (lambda x, w, h: (x / 3).to(dtype=torch.float32), third),
    "to the weight": (lambda x, w, h: (x / 3).to(w), third),
    "to a device and dtype": (lambda x, w, h: (x / 3).to("cpu", torch.float16), third),
    "type_as": (lambda x, w, h: (x / 3).type_as(h), third),
    "type": (lambda x, w, h: (x / 3).type(torch.float32), third),
    "float": (lambda x, w, h: (x / 3).float(), third),
    "half": (lambda x, w, h: (x / 3).half(), third),
    "bfloat16": (lambda x, w, h: (x / 3).bfloat16(), third),
    "softmax in float32": (
        lambda x, w, h: torch.softmax(x, -1, dtype=torch.float32),
        lambda x: x.double().softmax(-1),
    ),
    "a weight": (lambda x, w, h: x * w, lambda x: x.double() * W),
    "a half buffer": (lambda x, w, h: x * h, lambda x: x.double() * H),
    "linear by keywords": (
        lambda x, w, h: nn.functional.linear(x, weight=w[None], bias=w[:1]),
        lambda x: x.double() @ W[:, None] + W[0],
    ),
    "cat": (lambda x, w, h: torch.cat([x, w[None]]), lambda x: torch.cat([x.double(), W[None]])),
    "stack by keyword": (lambda x, w, h: torch.stack(tensors=(x[0], w)), lambda x: torch.stack([x[0].double(), W])),
    "in place": (lambda x, w, h: (x / 3).add_(w).mul_(w), lambda x: (third(x) + W) * W),
    "in place by operator": (lambda x, w, h: (x / 3).__iadd__(w), lambda x: third(x) + W),
    "into a slice": (lambda x, w, h: put(torch.zeros(3, dtype=torch.float32), w / 3), lambda x: W / 3),
    "zeros_like a weight": (lambda x, w, h: torch.zeros_like(w) + x / 3, third),
    "new_full of a weight": (lambda x, w, h: w.new_full((3,), 1 / 3), lambda x: torch.ones(3).double() / 3),
    "a factory without dtype": (lambda x, w, h: torch.full((3,), 1 / 3), lambda x: torch.ones(3).double() / 3),
    "a factory in float32": (
        lambda x, w, h: torch.full((3,), 1 / 3, dtype=torch.float32),
        lambda x: torch.ones(3).double() / 3,
    ),
    "integers divided": (lambda x, w, h: torch.arange(3) / 3, lambda x: torch.arange(3).double() / 3),
    "integers to float": (lambda x, w, h: torch.arange(3).float() / 3, lambda x: torch.arange(3).double() / 3),
    "an array": (lambda x, w, h: torch.from_numpy(np.ones(3, np.float32)) / 3, lambda x: torch.ones(3).double() / 3),
    "complex numbers": (
        lambda x, w, h: torch.fft.ifft(torch.fft.fft(x / 3).to(torch.complex64)).real,
        lambda x: torch.fft.ifft(torch.fft.fft(third(x))).real,
    ),
}  # fmt: skip


def put(target: Tensor, values: Tensor) -> Tensor:
    target[:] = values
    return target


@pytest.mark.parametrize("name", KEPT)
def test_an_operator_keeps_every_digit(name: str) -> None:
    function, expected = KEPT[name]
    x = pixels(1, 4)
    found, _ = reference.forward_in_float64(Apply(function), x)
    assert_near((found, found), (expected(x[:, :, 0, 0]),) * 2)


def narrowed(*, x: Tensor) -> Tensor:
    """A function as torch.nn.functional has them: a mode is handed the whole of it."""
    if has_torch_function_unary(x):
        return cast(Tensor, handle_torch_function(narrowed, (x,), x=x))
    return x.type("torch.FloatTensor")


LOST: dict[str, Operator] = {
    "in place": lambda x, w, h: w.add_(1),
    "by operator": lambda x, w, h: w.__iadd__(x[0]),
    "into a slice": lambda x, w, h: put(w, x[0]),
    "with a flag": lambda x, w, h: nn.functional.relu(w, inplace=True),
    "by out": lambda x, w, h: torch.add(x[0], 1, out=w),
    "a copy": lambda x, w, h: w.copy_(x[0]),
    "by its data": lambda x, w, h: w.data.mul_(2),
    "a cast by a name": lambda x, w, h: x.type("torch.FloatTensor"),
    "a cast of a keyword": lambda x, w, h: narrowed(x=x),
    "as other bits": lambda x, w, h: x.view(torch.float32),
}


@pytest.mark.parametrize("name", LOST)
def test_what_would_lose_digits_is_an_error(name: str) -> None:
    with pytest.raises(UserError, match="no float64 reference of this model: its "):
        reference.forward_in_float64(Apply(LOST[name]), pixels(1, 4))
    assert torch.get_default_dtype() == torch.float32


def test_a_lost_write_is_noticed_in_inference_mode_too() -> None:
    with torch.inference_mode(), pytest.raises(UserError, match="its add_ writes into"):
        reference.forward_in_float64(Apply(LOST["in place"]), pixels(1, 4))


# -------------------------------------------------------------------------------------------------- many images
def test_images_are_computed_one_at_a_time() -> None:
    """Each image more would take memory for its activations."""
    found = []

    def note(x: Tensor, _w: Tensor, _h: Tensor) -> Tensor:
        found.append(len(x))
        return x

    embedding, hidden_state = reference.forward_in_float64(Apply(note), torch.zeros(3, 3, 8, 8))
    assert (found, len(embedding), len(hidden_state)) == ([1, 1, 1], 3, 3)


MEASURE = """
import torch
from torch import nn
from common.accuracy import reference

def megabytes(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024

class Stack(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(count)))
    def forward(self, x):
        y = self.layers(x.flatten(1)[:, :1024])
        return y, y[:, None]

module = Stack(40).requires_grad_(False)
weights = sum(p.numel() for p in module.parameters()) * 4 / 2**20
x = torch.ones(2, 3, 32, 32)
reference.forward_in_float64(Stack(2).requires_grad_(False), x)  # what the first float64 costs once: buffers, heap
base = megabytes("VmRSS")
reference.forward_in_float64(module, x) if COPYLESS else module.double()(x.double())
print((megabytes("VmHWM") - base) / weights)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's memory count")
@pytest.mark.parametrize(("copyless", "low", "high"), [(True, 0.0, 0.3), (False, 0.6, 2.5)])
def test_memory_holds_the_weights_once(copyless: bool, low: float, high: float) -> None:
    """Beside 160 MB of weights a fraction of them, where module.double() takes as much again or more."""
    code = MEASURE.replace("COPYLESS", str(copyless))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert low <= float(done.stdout) <= high
