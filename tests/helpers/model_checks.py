"""What a model has to pass: the CPU's outputs are its library's own, and the simulated NPU's are the CPU's."""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from helpers.forks import SIMULATED_NPU
from helpers.transformers_families import Family
from torch import Tensor, nn

from common.accuracy import metrics
from common.accuracy import reference as reference_of
from common.accuracy.diagnosis import blocks, emulation
from common.cli.options import ModelChoice
from common.device import devices, numerics
from common.encoder import base, loading, weights
from common.images import decoding
from common.log import conclusions, formulas

SAME = 1e-5  # relative L2: one machine, one library, and the same weights, though aligned differently
NOISE = 1e-3  # what float32 may lose on random weights; a wrong operator loses more
EXPLAINED_BY = ("conv_hf32+gelu_tanh+matmul_hf32", "bfloat16")


@dataclass(frozen=True)
class Result:
    """What became of a model.

    `outcome` is works, refused, no encoder (refused, as it should be), differs, traceback, or built for one not run.
    """

    library: str
    name: str
    outcome: str
    reason: str = ""
    params: int = 0
    embedding: tuple[int, ...] = ()
    hidden_state: tuple[int, ...] = ()
    conventional: float | None = None  # relative L2 of the CPU's embedding from the conventionally built model's
    npu: float | None = None  # the larger relative L2 of both outputs from the CPU's
    seconds: float = 0.0


class DifferenceError(Exception):
    """A model that runs and gives something else than it should."""


# ------------------------------------------------------------------------------------------------------------- checks
def photo(encoder: base.Encoder) -> Tensor:
    """The default photo as the encoder's pixel_values [1, 3, H, W]."""
    return encoder.preprocess(decoding.find_samples(None)[0].load()).unsqueeze(0)


def relative_l2(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        raise DifferenceError(f"{list(found.shape)} instead of {list(expected.shape)}")
    error = metrics.compare(expected, found).relative_l2
    if error is None:
        raise DifferenceError(f"{metrics.count_nonfinite(expected, found)} values are not finite")
    return error


def check(
    result: Result, encoder: base.Encoder, conventional: Callable[[Tensor], Tensor], explained: bool = False
) -> Result:
    """The result of running an encoder on the CPU and the simulated NPU. Raises DifferenceError for wrong outputs.

    `conventional` gives the embedding [1, D] for pixel_values [1, 3, H, W] as the library's users compute it.
    """
    pixel_values = photo(encoder)
    cpu = devices.encode(encoder.module, pixel_values)
    with torch.inference_mode():
        expected = conventional(pixel_values)
    apart = relative_l2(expected, cpu[0])
    if apart > SAME:
        raise DifferenceError(f"{apart:.1e} from the conventionally built model")
    reference = copy.deepcopy(encoder.module) if explained else None
    on_npu = run_on_npu(encoder.module, pixel_values)
    errors = [relative_l2(r, y) for r, y in zip(cpu, on_npu, strict=True)]
    if max(errors) > formulas.allowed_error("float32", 0.01, None):
        raise DifferenceError(f"the NPU's outputs are off by {max(errors):.1e}")
    if reference is not None:
        explain(reference, encoder.module, pixel_values, cpu)
    return replace(
        result,
        outcome="works",
        params=encoder.params,
        embedding=tuple(cpu[0].shape),
        hidden_state=tuple(cpu[1].shape),
        conventional=apart,
        npu=max(errors),
    )


def explain(reference: nn.Module, module: nn.Module, pixel_values: Tensor, cpu: devices.Outputs) -> None:
    """What --golden and --explain compute. Raises DifferenceError where they give something that can't be."""
    for expected, found in zip(reference_of.forward_in_float64(reference, pixel_values), cpu, strict=True):
        if relative_l2(expected, found) > NOISE:
            raise DifferenceError(f"float32 is {relative_l2(expected, found):.1e} from float64")
    for cause in EXPLAINED_BY:
        emulated = emulation.emulate(lambda: devices.forward(reference, pixel_values), cause)
        if not all(output.isfinite().all() for output in emulated):
            raise DifferenceError(f"{cause} makes it NaN or infinite")
    layers = blocks.profile(reference, module, pixel_values)
    if not layers or any(formulas.size_of(layer.isolated) > NOISE for layer in layers):
        raise DifferenceError(f"its blocks: {conclusions.conclude_blocks(layers, 'float32', None).en}")


def run_on_npu(module: nn.Module, pixel_values: Tensor) -> list[Tensor]:
    """The outputs on the simulated NPU under strict numerics, brought back; the module stays on the NPU."""
    if str(SIMULATED_NPU) not in sys.path:
        sys.path.insert(0, str(SIMULATED_NPU))
    device = devices.select_device("npu")
    with numerics.in_force("strict", device, torch.float32) as in_force, in_force.watch():
        devices.place(module, device, torch.float32)
        return [output.cpu() for output in devices.encode(module, pixel_values.to(device))]


# --------------------------------------------------------------------------------------------------------------- timm
def build_timm(name: str) -> Result:
    """An architecture built on meta, with its parameters counted."""
    import timm

    built = weights.build_on_meta(lambda: timm.create_model(name))
    return Result("timm", name, "built", params=sum(parameter.numel() for parameter in built.parameters()))


def check_timm(name: str, explained: bool = False) -> Result:
    """An architecture with random weights, by its id."""
    import timm

    result = Result("timm", name, "works")
    encoder = loading.load_encoder(ModelChoice(f"timm/{name}", "random"))
    own = encoder.module.model.state_dict()
    conventional = timm.create_model(name)
    conventional.load_state_dict(own, strict=True)
    conventional.eval().requires_grad_(False)

    def embed(pixel_values: Tensor) -> Tensor:
        """timm's own forward; of tokens or a map as timm's poolings "token" and "avg" take them."""
        output = conventional(pixel_values)
        if output.ndim == 4:
            return output.mean((1, 2) if str(getattr(conventional, "output_fmt", "NCHW")) == "NHWC" else (2, 3))
        if output.ndim == 3:
            prefix = getattr(conventional, "num_prefix_tokens", 0)
            has_cls = getattr(conventional, "cls_token", None) is not None
            return output[:, 0] if has_cls else output[:, prefix:].mean(1)
        return output

    return check(result, encoder, embed, explained)


# ------------------------------------------------------------------------------------------------------- transformers
def check_family(family: Family, explained: bool = False) -> Result:
    """A checkpoint that the family's class has saved, whole or in shards, loaded; and the same with random weights."""
    result = Result("transformers", family.name, "works")
    with tempfile.TemporaryDirectory() as folder:
        own = family.build()
        own.save_pretrained(folder)
        saved = loading.load_encoder(ModelChoice(folder))
        result = check(result, saved, lambda pixel_values: family.embed(own, pixel_values), explained)
        seeded = loading.load_encoder(ModelChoice(folder, "random"))
    own.load_state_dict(in_places_of(own, seeded.module.model), strict=False)
    embed = family.unpooled or family.embed
    with torch.inference_mode():
        pixel_values = photo(seeded)
        apart = relative_l2(embed(own, pixel_values), seeded.module(pixel_values)[0])
    if apart > SAME:
        raise DifferenceError(f"with random weights {apart:.1e} from the conventionally built model")
    return result


def in_places_of(own: nn.Module, encoder: nn.Module) -> weights.State:
    """The encoder's weights by the names that they have in the model which holds it."""
    wanted, state = set(own.state_dict()), encoder.state_dict()
    prefixes = ["", *(f"{name}." for name, _ in own.named_children())]
    return next(
        renamed
        for prefix in prefixes
        if set(renamed := {prefix + key: value for key, value in state.items()}) <= wanted
    )
