"""The causes: what each emulation computes, and that the cause in force is named and no other ever is.

The devices are independent of the emulation: modules changed in place, torch's own 16-bit kernels, and the simulated
NPU. The last are measured in one child process, which is this file run as a script.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.forks import Forks, needs_simulated_npu
from helpers.small_models import DEMO, VIT, Model, load
from torch import Tensor, nn

from common.accuracy.diagnosis import causes, emulation
from common.accuracy.diagnosis.causes import explain, hypotheses
from common.accuracy.diagnosis.emulation import Emulation, emulate
from common.device import devices, numerics
from common.device.devices import Outputs
from common.log import conclusions
from common.log.conclusions import UNEXPLAINED
from common.log.events import Cause

CPU = torch.device("cpu")
FLOAT32, FLOAT16, BFLOAT16 = torch.float32, torch.float16, torch.bfloat16
ALL = sorted({*hypotheses(FLOAT32), *hypotheses(FLOAT16)})


def explained(model: Model, device_output: Outputs, dtype: torch.dtype = FLOAT32) -> list[Cause]:
    """For a device whose attention keeps float32, as that of these tests and of the simulated NPU does."""
    return explain(model.run, model.reference, device_output, hypotheses(dtype), attention_bits=23)


def conclude(explanations: list[Cause]) -> str:
    return conclusions.conclude_causes(explanations).en


def best(explanations: list[Cause]) -> str:
    (found,) = [each.cause for each in explanations if each.best]
    return found


def errors(model: Model, outputs: Outputs) -> Tensor:
    """The errors of both outputs as one vector, each relative to its reference."""
    parts = [(y.double() - r.double()) / r.double().norm() for y, r in zip(outputs, model.reference, strict=True)]
    return torch.cat([part.flatten() for part in parts])


# ------------------------------------------------------------------------------------------------- devices in process
def round_to_11_bits(x: Tensor) -> Tensor:
    """By the exponent that frexp gives, unlike the emulation, which works on the bits."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp(torch.round(mantissa * 2**12) / 2**12, exponent)


def in_hf32(module: nn.Module, kind: type[nn.Module]) -> None:
    """Make the modules of a kind round their weights and inputs."""
    for part in module.modules():
        if isinstance(part, kind):
            part.weight.data = round_to_11_bits(part.weight)
            part.register_forward_pre_hook(lambda _, args: tuple(round_to_11_bits(x) for x in args))


def with_tanh_gelu(module: nn.Module) -> None:
    for part in module.modules():
        for name, child in part.named_children():
            if isinstance(child, nn.GELU):
                setattr(part, name, nn.GELU(approximate="tanh"))


def with_scaled_norms(module: nn.Module, factor: float = 1.01) -> None:
    for part in module.modules():
        if isinstance(part, (nn.LayerNorm, nn.BatchNorm2d)):
            part.register_forward_hook(lambda _, args, output: output * factor)


def on_device(model: Model, *changes: Callable[[nn.Module], None], dtype: torch.dtype = FLOAT32) -> Outputs:
    """The outputs of a copy of the encoder after changes to it."""
    module = copy.deepcopy(model.module)
    for change in changes:
        change(module)
    return devices.forward(module.to(dtype), model.pixel_values.to(dtype))


conv_in_hf32 = partial(in_hf32, kind=nn.Conv2d)
linear_in_hf32 = partial(in_hf32, kind=nn.Linear)


# ----------------------------------------------------------------------------------------------------- the emulation
@pytest.mark.parametrize("bits", [7, 10, 11, 22])
def test_rounding_is_to_the_nearest_of_the_values_with_so_many_bits(bits: int) -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.arange(-20, 20).repeat(25)
    rounded = emulation.round_mantissa(x, bits).double()
    _, exponent = torch.frexp(x.double())
    step = torch.ldexp(torch.ones_like(rounded), exponent - 1 - bits)
    assert torch.equal(rounded / step, (rounded / step).round())
    assert bool(((rounded - x.double()).abs() <= step / 2).all())


def test_rounding_spares_what_is_not_finite_and_carries_into_the_exponent() -> None:
    x = torch.tensor([math.inf, -math.inf, math.nan, 2 - 2.0**-23, 0.0, -1 - 2.0**-12])
    assert str(emulation.round_mantissa(x, 11).tolist()) == str(
        [math.inf, -math.inf, math.nan, 2.0, 0.0, -1 - 2.0**-11]
    )


PROBED = {
    "conv_hf32": (11, 23, 23, "erf"),
    "matmul_hf32": (23, 11, 11, "erf"),
    "gelu_tanh": (23, 23, 23, "tanh"),
    "conv_hf32+gelu_tanh+matmul_hf32": (11, 11, 11, "tanh"),
    "float16": (10, 10, 10, "erf"),
    "bfloat16": (7, 7, 7, "erf"),
    "bfloat16+gelu_tanh": (7, 7, 7, "tanh"),
}


@pytest.mark.parametrize("cause", PROBED)
def test_the_probe_finds_in_the_emulation_what_it_finds_in_a_device(cause: str) -> None:
    dtype = emulation.DTYPES.get(cause.partition("+")[0], FLOAT32)
    assert numerics.probe(CPU, FLOAT32).conv_mantissa_bits == 23
    with Emulation(cause):
        conv, matmul, attention, _, _ = asdict(numerics.probe(CPU, FLOAT32)).values()
        x = torch.linspace(-4, 4, 1601, dtype=dtype).float()
        gelu = F.gelu(x)
    formulas = {"erf": numerics.gelu_erf(x).to(dtype).float(), "tanh": numerics.gelu_tanh(x).to(dtype).float()}
    nearest = min(formulas, key=lambda name: int((gelu != formulas[name]).sum()))
    assert (conv, matmul, attention, nearest) == PROBED[cause]


@pytest.mark.parametrize("cause", ["matmul_hf32", "float16"])
def test_biases_of_products_stay_as_they_are_in_hf32_alone(cause: str) -> None:
    fine = torch.tensor([1 + 2.0**-12])
    zero = torch.zeros(1, 1)
    with Emulation(cause):
        sums = [F.linear(zero, zero, fine), F.linear(zero, weight=zero, bias=fine), torch.addmm(fine, zero, zero)]
    assert [bool(s == fine) for s in sums] == [cause == "matmul_hf32"] * 3


def attention_cases() -> dict[str, dict[str, Any]]:
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(1)) > 0.3
    mask[:, 0] = True
    return {
        "plain": {},
        "scale": {"scale": 0.3},
        "boolean mask": {"attn_mask": mask},
        "added mask": {"attn_mask": mask.float() * 2},
        "causal": {"is_causal": True},
        "grouped": {"enable_gqa": True},
    }


@pytest.mark.parametrize("case", attention_cases())
def test_attention_by_its_formula_is_torchs(case: str) -> None:
    options = attention_cases()[case]
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 5, 8, generator=generator)
    key, value = torch.randn(2, 2, 2 if options.get("enable_gqa") else 4, 7, 8, generator=generator)
    expected = F.scaled_dot_product_attention(query, key, value, **options)
    found = emulation.attention(query, key, value, **options, rounded=lambda x: x)
    assert torch.allclose(found, expected, atol=1e-6)


def test_all_four_operands_of_attentions_products_are_rounded() -> None:
    query, key, value = torch.randn(3, 1, 1, 4, 8, generator=torch.Generator().manual_seed(0))
    rounded = [x.bfloat16().float() for x in (query, key, value)]
    weights = (rounded[0] @ rounded[1].mT / math.sqrt(8)).softmax(-1).bfloat16().float()
    with Emulation("bfloat16"):
        found = F.scaled_dot_product_attention(query, key, value)
    assert torch.equal(found, (weights @ rounded[2]).bfloat16().float())


def test_an_emulation_looks_into_torchs_multihead_attention() -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(16, 2, batch_first=True).eval().requires_grad_(False)
    x = torch.randn(1, 5, 16)
    run = partial(devices.forward, lambda x: module(x, x, x, need_weights=False)[:1], x)
    expected = nn.MultiheadAttention.forward(module, x, x, x, need_weights=False)[0]
    (found,) = emulate(run, "matmul_hf32")
    assert 1e-5 < float((found - expected).norm() / expected.norm()) < 1e-3
    (found,) = emulate(run, "conv_hf32")
    assert torch.allclose(found, expected, atol=1e-6)


def test_operators_in_place_are_rounded_too() -> None:
    third = torch.full((3,), 1 / 3)

    def run() -> Outputs:
        x, y = torch.ones(3), torch.ones(3)
        x += third
        x[1] = third[0]
        y[:2].add_(third[:2])
        return x, y

    rounded = float(torch.tensor(1 / 3).bfloat16())
    more = float(torch.tensor(1 + rounded).bfloat16())
    with Emulation("bfloat16"):
        x, y = run()
    assert (x.tolist(), y.tolist()) == ([more, rounded, more], [more, more, 1.0])
    assert x.tolist() != run()[0].tolist()


@pytest.mark.parametrize("model", [DEMO, VIT])
@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16])
def test_a_16_bit_emulation_predicts_the_real_run(dtype: torch.dtype, model: str) -> None:
    """The size to 10 %, and the error itself as far as rounding repeats: over 12 blocks, less than a half."""
    encoder = load(model)
    emulated = emulate(encoder.run, devices.dtype_name(dtype))
    assert all(torch.equal(output, output.to(dtype).float()) for output in emulated)
    predicted, found = errors(encoder, emulated), errors(encoder, on_device(encoder, dtype=dtype))
    assert 0.9 < float(found.norm() / predicted.norm()) < 1.1
    correlation = float(found.dot(predicted) / found.norm() / predicted.norm())
    assert correlation > {DEMO: 0.9, VIT: 0.35}[model]


@pytest.mark.parametrize("cause", ALL)
def test_an_emulation_repeats_and_a_seed_disturbs_its_last_bits(cause: str) -> None:
    encoder = load(VIT)
    once, twice = emulate(encoder.run, cause), emulate(encoder.run, cause)
    assert all(map(torch.equal, once, twice))
    disturbed, again = emulate(encoder.run, cause, seed=1), emulate(encoder.run, cause, seed=1)
    assert all(map(torch.equal, disturbed, again))
    assert not torch.equal(once[0], disturbed[0])
    assert torch.equal(encoder.run()[0], encoder.reference[0])  # nothing is left behind


def test_numbers_that_are_not_float32_are_not_disturbed() -> None:
    whole, wide = torch.arange(5), torch.ones(3, dtype=torch.float64)
    with Emulation("gelu_tanh", seed=1):
        assert torch.equal(whole + 1, torch.tensor([1, 2, 3, 4, 5]))
        assert torch.equal(wide * 3, torch.full((3,), 3.0, dtype=torch.float64))
        assert not torch.equal(torch.ones(3) * 3, torch.full((3,), 3.0, dtype=torch.float64).float())


def test_what_is_no_cause_is_refused() -> None:
    for cause in ("", "tf32", "conv_hf32+", "unexplained"):
        with pytest.raises(ValueError, match="no such cause"):
            Emulation(cause)


def test_hypotheses_are_joined_in_alphabetical_order() -> None:
    assert all(cause == "+".join(sorted(cause.split("+"))) for cause in ALL)
    assert "float16" in hypotheses(FLOAT16)
    assert "conv_hf32" not in hypotheses(BFLOAT16)


# ------------------------------------------------------------------------------------------------- naming the cause
NAMED = [
    (VIT, "conv_hf32", (conv_in_hf32,), FLOAT32),
    (VIT, "gelu_tanh", (with_tanh_gelu,), FLOAT32),
    (VIT, "conv_hf32+gelu_tanh", (conv_in_hf32, with_tanh_gelu), FLOAT32),
    (VIT, "matmul_hf32", (linear_in_hf32,), FLOAT32),
    (VIT, "gelu_tanh+matmul_hf32", (linear_in_hf32, with_tanh_gelu), FLOAT32),
    (VIT, "float16", (), FLOAT16),
    (VIT, "bfloat16", (), BFLOAT16),
    (DEMO, "conv_hf32", (conv_in_hf32,), FLOAT32),
    (DEMO, "matmul_hf32", (linear_in_hf32,), FLOAT32),
    (DEMO, "conv_hf32", (conv_in_hf32, linear_in_hf32), FLOAT32),  # the first's error is ten times larger
    (DEMO, "float16", (), FLOAT16),
    (DEMO, "bfloat16", (), BFLOAT16),
]


@pytest.mark.parametrize(("model", "cause", "changes", "dtype"), NAMED)
def test_the_cause_in_force_is_the_best(model: str, cause: str, changes: Any, dtype: torch.dtype) -> None:
    encoder = load(model)
    output = on_device(encoder, *changes, dtype=dtype)
    assert best(explained(encoder, output, dtype)) == cause
    if dtype != FLOAT32:  # a device that was asked for float32, and computes less unasked
        assert best(explained(encoder, output, FLOAT32)) == cause


@pytest.mark.parametrize("cause", ["matmul_hf32", "gelu_tanh+matmul_hf32", "conv_hf32+gelu_tanh"])
def test_another_order_of_accumulation_hides_no_cause(cause: str) -> None:
    """With attention in HF32 too."""
    encoder = load(VIT)
    for seed in range(10, 13):
        output = emulate(encoder.run, cause, seed)
        assert best(explain(encoder.run, encoder.reference, output, hypotheses(FLOAT32))) == cause


def test_attention_in_float32_is_emulated_as_such() -> None:
    query, key, value = torch.randn(3, 1, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    plain = F.scaled_dot_product_attention(query, key, value)
    with Emulation("matmul_hf32", attention_bits=23):
        assert torch.equal(F.scaled_dot_product_attention(query, key, value), plain)
    with Emulation("matmul_hf32"):
        assert not torch.allclose(F.scaled_dot_product_attention(query, key, value), plain, rtol=1e-5)


@pytest.mark.parametrize("model", [DEMO, VIT])
@pytest.mark.parametrize("factor", [1.0001, 1.001, 1.01, 1.1])
def test_a_scaled_norm_is_unexplained(factor: float, model: str) -> None:
    """Of any size, that of a cause's own error included."""
    encoder = load(model)
    explanations = explained(encoder, on_device(encoder, partial(with_scaled_norms, factor=factor)))
    assert best(explanations) == UNEXPLAINED
    assert explanations[-1].cause == UNEXPLAINED
    assert conclude(explanations).startswith("unexplained: none of the known causes explains more than")


def test_random_errors_of_a_causes_size_are_unexplained() -> None:
    encoder = load(VIT)
    generator = torch.Generator().manual_seed(0)
    for cause in ("matmul_hf32", "float16", "bfloat16"):
        sizes = [(y - r).norm() for y, r in zip(emulate(encoder.run, cause), encoder.reference, strict=True)]
        noise = [torch.randn(r.shape, generator=generator) for r in encoder.reference]
        output = [r + n / n.norm() * s for r, n, s in zip(encoder.reference, noise, sizes, strict=True)]
        assert best(explained(encoder, (output[0], output[1]))) == UNEXPLAINED, cause


def test_an_error_beside_the_cause_is_not_hidden_by_it() -> None:
    encoder = load(VIT)
    assert best(explained(encoder, on_device(encoder, with_tanh_gelu, with_scaled_norms))) == UNEXPLAINED
    assert best(explained(encoder, on_device(encoder, with_scaled_norms, dtype=BFLOAT16), BFLOAT16)) == UNEXPLAINED


def test_a_cause_whose_operators_are_not_there_is_left_out() -> None:
    encoder = load(DEMO)
    assert all(map(torch.equal, emulate(encoder.run, "gelu_tanh"), encoder.reference))
    tried = [each.cause for each in explained(encoder, on_device(encoder, conv_in_hf32))]
    assert tried == ["conv_hf32", "matmul_hf32", "float16", "bfloat16", "conv_hf32+matmul_hf32"]


def test_rounding_of_another_order_of_accumulation_has_no_cause_and_says_so() -> None:
    encoder = load(DEMO)
    disturbed = emulate(encoder.run, "gelu_tanh", seed=0)  # which changes nothing but the last bits
    explanations = explained(encoder, disturbed)
    assert best(explanations) == UNEXPLAINED
    assert conclude(explanations).startswith("nothing but rounding: the error is of the size of float32's")


def test_without_an_error_there_is_nothing_to_explain() -> None:
    encoder = load(DEMO)
    assert explained(encoder, encoder.reference) == []
    assert conclude([]) == "nothing but rounding: the CPU's float32 gives the same to the last bit"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_are_unexplained(value: float) -> None:
    encoder = load(VIT)
    output = encoder.reference[0].clone(), encoder.reference[1]
    output[0][0, 3] = value
    explanations = explained(encoder, output)
    assert best(explanations) == UNEXPLAINED
    assert all(each.explained is None for each in explanations)
    assert conclude(explanations).startswith("unexplained: the outputs are NaN or infinite")


def test_an_overflow_of_float16_is_named() -> None:
    encoder = load(VIT)
    large = copy.deepcopy(encoder.module)
    large.model.blocks[3].mlp.fc1.weight.data *= 1e5
    model = Model(large, encoder.pixel_values, devices.forward(large, encoder.pixel_values))
    explanations = explained(model, on_device(model, dtype=FLOAT16), FLOAT16)
    assert best(explanations) == "float16"
    assert conclude(explanations) == "float16 rounding alone makes outputs NaN or infinite, on the CPU too"
    finite = on_device(model, dtype=BFLOAT16)
    assert best(explained(model, finite, BFLOAT16)) != "float16"


def test_the_figures_are_those_of_the_formulas() -> None:
    """One number, reference 1, device 3, and a cause that gives 2: half the way, three quarters of the square."""
    wanted = {"conv_hf32": 2.0}

    def run() -> Outputs:
        value = F.conv1d(torch.full((1, 1, 1), 1 + 2.0**-12), torch.ones(1, 1, 1)).flatten()
        return value.new_tensor([wanted["conv_hf32"] if value > 1 + 2.0**-12 else 1.0]), torch.ones(1)

    found, none = explain(run, (torch.ones(1), torch.ones(1)), (torch.tensor([3.0]), torch.ones(1)), ["conv_hf32"])
    assert (found.explained, found.residual, found.size) == pytest.approx((0.75, math.sqrt(1 / 2), 2.0))
    assert (none.cause, none.best, none.explained, none.residual) == (
        UNEXPLAINED,
        True,
        0.0,
        pytest.approx(math.sqrt(2)),
    )
    assert conclude([found, none]) == "unexplained: none of the known causes explains more than 75%"


def test_a_cause_repeats_if_it_leaves_little_more_than_its_own_repetition() -> None:
    """Of the error 0.1 that any cause may leave, and 1.2 times what a repetition leaves."""

    def repeats(explained: float, repeatable: float | None) -> bool:
        return causes.repeats(Cause(cause="float16", explained=explained, residual=0.1, repeatable=repeatable))

    assert (repeats(0.31, 0.5), repeats(0.29, 0.5)) == (True, False)
    assert (repeats(0.901, 1.0), repeats(0.899, 1.0)) == (True, False)
    assert not repeats(0.5, None)


def test_fewer_causes_win_unless_more_leave_three_times_less() -> None:
    def choose(single: float, pair: float) -> str:
        tried = [
            Cause(cause="gelu_tanh", explained=1 - single**2, residual=single),
            Cause(cause="conv_hf32+gelu_tanh", explained=1 - pair**2, residual=pair),
        ]
        return best(causes._with_one_best(tried, 1.0))

    assert choose(0.1, 0.05) == "gelu_tanh"
    assert choose(0.1, 0.03) == "conv_hf32+gelu_tanh"
    assert choose(0.4, 0.1) == "conv_hf32+gelu_tanh"  # the single one explains 0.84
    assert choose(0.4, 0.35) == UNEXPLAINED


# ------------------------------------------------------------------------------------------------- the simulated NPU
SIMULATED = {  # conv HF32, matmul HF32, tanh GELU, dtype
    "conv_hf32": (True, False, False, "float32"),
    "gelu_tanh": (False, False, True, "float32"),
    "conv_hf32+gelu_tanh": (True, False, True, "float32"),
    "matmul_hf32": (False, True, False, "float32"),
    "float16": (False, False, False, "float16"),
    "bfloat16": (False, False, False, "bfloat16"),
}


@pytest.fixture(scope="module")
def on_simulated_npu(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return forks.measure_on_simulated_npu(__file__, "tanh", tmp_path_factory.mktemp("npu"))


@needs_simulated_npu
@pytest.mark.parametrize("cause", SIMULATED)
def test_the_cause_in_force_on_the_simulated_npu_is_the_best(cause: str, on_simulated_npu: dict[str, Any]) -> None:
    found = on_simulated_npu[cause]
    assert found["best"] == cause
    assert 0.9 < found["size"] < 1.1
    assert found["correlation"] > {"matmul_hf32": 0.6, "float16": 0.35, "bfloat16": 0.35}.get(cause, 0.99)


def explain_on_simulated_npu() -> dict[str, Any]:
    """In the child: what explains the outputs of the ViT under each configuration of the device."""
    from contextlib import nullcontext

    import torch_npu  # noqa: F401

    encoder = load(VIT)
    found = {}
    for cause, (conv, matmul, tanh, dtype) in SIMULATED.items():
        torch.npu.conv.allow_hf32, torch.npu.matmul.allow_hf32 = conv, matmul
        module = copy.deepcopy(encoder.module).to("npu", getattr(torch, dtype))
        with nullcontext() if tanh else numerics.gelu_by(numerics.gelu_by_formula, "npu"):
            outputs = devices.forward(module, encoder.pixel_values.to("npu", getattr(torch, dtype)))
        explanations = explained(encoder, (outputs[0].cpu(), outputs[1].cpu()), getattr(torch, dtype))
        of_cause = next(each for each in explanations if each.cause == cause)
        found[cause] = {**asdict(of_cause), "best": best(explanations)}
    return found


if __name__ == "__main__":
    print(json.dumps(explain_on_simulated_npu()))
