"""Causes: emulating on the CPU what a device may compute differently, and naming the one that explains its error.

The emulation computes in float32 and rounds operands and results; it never uses the CPU's own half-precision kernels.
That rounding repeats from one device to the next only in part: another order of accumulation moves a few values over a
rounding boundary, they differ by a whole step then, and after some blocks every activation is rounded another way.
(Measured on a ViT of 12 blocks: two bfloat16 runs have errors of one size that correlate by 0.5.) So where an error is
not explained digit by digit, it is compared with what the same emulation, repeated with the last bits of float32
disturbed, has in common with itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from common import Outputs
from precision import KIND_OF

HF32_BITS = 11
FLOAT32_BITS = 23
UNEXPLAINED = "unexplained"

EXPLAINS = 0.9  # the share of the error that a cause has to explain
NEAR = 3.0  # residuals within this factor of the smallest are as good as the smallest
SAME_SIZE = 1.25  # rounding in another way makes an error of the same size, within this factor
REPETITIONS = 3  # of an emulation, to see how far its rounding repeats
REPETITION_SLACK = 1.2  # three repetitions differ by so much from one another
CORRELATED = 0.2  # an error that resembles the emulation's less than this may do so by chance
FLOAT32_NOISE = 1e-5  # relative; float32 against float64 measures 0.5e-6 to 1.2e-6 on models of 12 to 16 blocks

WORDS = {
    "bfloat16": "bfloat16 rounding",
    "conv_hf32": "HF32 in the convolutions",
    "float16": "float16 rounding",
    "gelu_tanh": "the tanh GELU",
    "matmul_hf32": "HF32 in the matrix products",
}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}

# Functions that move or describe values and compute none. Their operands are left alone: a view of a rounded copy would
# not share the memory that a later in-place operator writes to.
MOVES = frozenset(
    {"__get__", "__getitem__", "_assert", "detach", "dim", "numel", "size"}
    | {"chunk", "contiguous", "expand", "expand_as", "flatten", "narrow", "permute", "reshape", "select", "split"}
    | {"squeeze", "t", "transpose", "unbind", "unflatten", "unsqueeze", "view", "view_as"}
)
IN_PLACE = frozenset({"__setitem__", "__iadd__", "__imul__", "__isub__", "__itruediv__"})

Run = Callable[[], Outputs]
Emulated = Callable[..., Tensor]  # (cause, seed) -> the joined outputs


def hypotheses(dtype: torch.dtype) -> tuple[str, ...]:
    """The causes worth trying for a run in `dtype`, and the pairs of them that occur together, joined by `+`."""
    if dtype in DTYPES.values():
        return ("float16", "bfloat16", "gelu_tanh", "float16+gelu_tanh", "bfloat16+gelu_tanh")
    alone = ("conv_hf32", "matmul_hf32", "gelu_tanh", "float16", "bfloat16")
    pairs = ("conv_hf32+matmul_hf32", "conv_hf32+gelu_tanh", "gelu_tanh+matmul_hf32")
    return (*alone, *pairs, "conv_hf32+gelu_tanh+matmul_hf32")


# -------------------------------------------------------------------------------------------------------- emulation
def emulate(run: Run, cause: str, seed: int | None = None, attention_bits: int = HF32_BITS) -> Outputs:
    """What `run` computes on the CPU in float32 under a cause, or several joined by `+`.

    With a `seed` the last bits of every result are disturbed, as another device's order of accumulation would.
    `attention_bits` are the mantissa bits that the device's attention keeps under matmul_hf32, as its probe found them:
    a fused kernel may keep all.
    Raises ValueError for a cause that is not known.
    """
    with Emulation(cause, seed, attention_bits):
        return run()


def round_mantissa(x: Tensor, bits: int) -> Tensor:
    """float32 `x` rounded to `bits` mantissa bits, to the nearest, halves away from zero; NaN and infinity unchanged.

    CANN knows both treatments of halves for HF32 (`SetHF32TransMode`). One value in 2^(23 - bits) is a half.
    """
    dropped = FLOAT32_BITS - bits
    steps = x.contiguous().view(torch.int32)
    rounded = (steps + (1 << (dropped - 1))) & ~((1 << dropped) - 1)
    return torch.where(x.isfinite(), rounded.view(torch.float32), x)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    rounded: Callable[[Tensor], Tensor],
) -> Tensor:
    """softmax(q k^T scale + mask) v by its formula, [B, H, T, D], the operands of both products `rounded`.

    The formula and the parameters are those of torch's scaled_dot_product_attention; dropout has no part in inference.
    """
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = rounded(query) @ rounded(key).transpose(-2, -1) * factor
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return rounded(scores.softmax(dim=-1)) @ rounded(value)


class Emulation(TorchFunctionMode):
    """Compute as a device would under a cause, or several joined by `+`.

    - `conv_hf32`: the operands of convolutions are rounded to 11 mantissa bits, biases are not.
    - `matmul_hf32`: the same for matrix products. Attention counts as its two products with a float32 softmax between
      them, as it is computed where no fused kernel takes float32; their operands keep `attention_bits`.
    - `gelu_tanh`: a GELU with `approximate="none"` computes the tanh approximation.
    - `float16`, `bfloat16`: every operand, weights included, and every result is rounded to the dtype; attention keeps
      its scores in float32 and rounds the weights of its values, as fused kernels do.
    """

    def __init__(self, cause: str, seed: int | None = None, attention_bits: int = HF32_BITS) -> None:
        super().__init__()
        causes = set(cause.split("+"))
        if not causes <= WORDS.keys():
            raise ValueError(f"no such cause: {cause}; known: {', '.join(WORDS)}")
        kinds = {"conv_hf32": {"conv"}, "matmul_hf32": {"matmul", "attention"}}
        self.hf32_kinds = {kind for name in causes & kinds.keys() for kind in kinds[name]}
        if attention_bits >= FLOAT32_BITS:
            self.hf32_kinds.discard("attention")
        self.attention_bits = attention_bits
        self.gelu_tanh = "gelu_tanh" in causes
        self.dtype = next((DTYPES[name] for name in sorted(causes & DTYPES.keys())), None)
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "multi_head_attention_forward":
            with self:
                return _seen_from_inside(func)(*args, **kwargs)
        if name in MOVES:
            return func(*args, **kwargs)
        if name in IN_PLACE or (name.endswith("_") and not name.endswith("__")):
            result = self._compute(func, name, (args[0], *self._stored(args[1:])), self._stored(kwargs))
            args[0].copy_(self._finished(args[0]))
            return result
        return self._finished(self._compute(func, name, self._stored(args), self._stored(kwargs)))

    def _compute(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        kind = KIND_OF.get(name)
        if kind == "attention" and (self.dtype is not None or kind in self.hf32_kinds):
            return attention(*args, **kwargs, rounded=self._operand)
        if kind in self.hf32_kinds:
            return func(*_factors(name, args), **{key: _hf32(value, key) for key, value in kwargs.items()})
        if name == "gelu" and self.gelu_tanh:
            return F.gelu(args[0], approximate="tanh")
        return func(*args, **kwargs)

    def _operand(self, x: Tensor) -> Tensor:
        """An operand of one of attention's products."""
        return self._store(x) if self.dtype is not None else round_mantissa(x, self.attention_bits)

    def _finished(self, results: Any) -> Any:
        """Results with their last bits disturbed, where asked, and stored in the dtype."""
        if self.generator is not None:
            results = tree_map_only(Tensor, self._disturb, results)
        return self._stored(results)

    def _stored(self, values: Any) -> Any:
        return values if self.dtype is None else tree_map_only(Tensor, self._store, values)

    def _store(self, x: Tensor) -> Tensor:
        return x.to(self.dtype).to(torch.float32) if x.dtype == torch.float32 else x

    def _disturb(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            return x
        noise = torch.randn(x.shape, generator=self.generator)
        return x * (1 + torch.finfo(torch.float32).eps * noise)


def _factors(name: str, args: Sequence[Any]) -> list[Any]:
    """The arguments of a convolution or matrix product, its factors in HF32; what is added stays as it is."""
    added = {"addmm": 0, "baddbmm": 0, "einsum": None}.get(name, 2)
    return [value if place == added else _hf32(value) for place, value in enumerate(args)]


def _hf32(values: Any, name: str = "") -> Any:
    if name == "bias":
        return values
    return tree_map_only(Tensor, lambda x: round_mantissa(x, HF32_BITS) if x.dtype == torch.float32 else x, values)


def _seen_from_inside(func: FunctionType) -> FunctionType:
    """A function of torch's that is written in Python, such that a mode sees the operators that it calls.

    torch hands the whole function to a mode and computes it without the mode. Without that first step it is plain code.
    """
    unnoticed = {**func.__globals__, "has_torch_function": lambda _: False}
    return FunctionType(func.__code__, unnoticed, func.__name__, func.__defaults__, func.__closure__)


# ------------------------------------------------------------------------------------------------------ explanation
@dataclass(frozen=True)
class Explanation:
    """How well a cause explains the device's error y - r, when its emulation gives y_k.

    `explained` = 1 - ||y - y_k||^2 / ||y - r||^2: 1 digit by digit, 0 nothing, negative for a cause that moves the
    outputs elsewhere. `residual` = ||y - y_k||, relative: each output is divided by its reference's norm, and the norms
    of the two are averaged (root mean square). `correlation` is that of the two errors, `size` = ||y - r|| /
    ||y_k - r||. `repeatable` is the least that y_k explains of other emulations of the same cause, whose last bits were
    disturbed; None where it was not needed. All are None where NaN or infinities leave no number.
    """

    cause: str
    explained: float | None = None
    residual: float | None = None
    best: bool = False
    correlation: float | None = None
    size: float | None = None
    repeatable: float | None = None

    @property
    def repeats(self) -> bool:
        """Whether the cause explains the error as far as it explains its own, once rounded in another way.

        What it leaves unexplained may be a fifth more than there, and the 0.1 that every cause may leave.
        """
        if self.explained is None or self.repeatable is None:
            return False
        return 1 - self.explained <= (1 - EXPLAINS) + REPETITION_SLACK * (1 - self.repeatable)


def explain(
    run: Run,
    reference: Outputs,
    device_output: Outputs,
    causes: Iterable[str],
    attention_bits: int = HF32_BITS,
) -> list[Explanation]:
    """Which of `causes` explains the difference between two outputs (embedding, hidden_state) of one image.

    `run` computes the outputs with the float32 module on the CPU, as `partial(common.forward, module, pixel_values)`:
    once without and once with each cause, and three times more where rounding may not repeat. `attention_bits` are what
    the device's probe found. Exactly one explanation is the best: `unexplained`, which comes last, where no cause
    explains enough. Without any error there is nothing to explain: []. A cause that changes nothing, since the model
    lacks its operators, is left out.
    """
    emulated = partial(_emulate_joined, run, reference, attention_bits)
    r, y = _joined(reference, reference), _joined(device_output, reference)
    if torch.equal(r, y):
        return []
    finite = bool(y.isfinite().all())
    found = []
    for cause, y_k in _distinct(emulated, _joined(run(), reference), causes):
        if not finite:
            found.append(Explanation(cause, best=not y_k.isfinite().all()))
        else:
            found.append(_with_repetitions(_compare(cause, r, y, y_k), emulated, r, y_k))
    return _with_one_best(found, None if not finite else float((y - r).norm()))


def _emulate_joined(run: Run, reference: Outputs, attention_bits: int, cause: str, seed: int | None = None) -> Tensor:
    return _joined(emulate(run, cause, seed, attention_bits), reference)


def _distinct(emulated: Emulated, plain: Tensor, causes: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """The joined outputs under each cause that changes them, the single causes first."""
    known = [plain]
    for cause in sorted(causes, key=_count):
        y_k = emulated(cause)
        if not any(torch.equal(y_k, other) for other in known):
            known.append(y_k)
            yield cause, y_k


def _count(cause: str) -> int:
    return cause.count("+") + 1


def _joined(outputs: Outputs, reference: Outputs) -> Tensor:
    """All outputs as one vector in float64, each divided by its reference's norm: embedding and tokens count alike."""
    parts = []
    for output, scale in zip(outputs, reference, strict=True):
        norm = scale.double().norm() * math.sqrt(len(outputs))
        parts.append(output.cpu().double().flatten() / (norm.cpu() if norm > 0 else 1))
    return torch.cat(parts)


def _compare(cause: str, r: Tensor, y: Tensor, y_k: Tensor) -> Explanation:
    error, emulated = y - r, y_k - r
    residual = float((y - y_k).norm())
    if not math.isfinite(residual):
        return Explanation(cause)
    return Explanation(
        cause,
        explained=1 - (residual / float(error.norm())) ** 2,
        residual=residual,
        correlation=_correlation(error, emulated),
        size=float(error.norm() / emulated.norm()),
    )


def _correlation(a: Tensor, b: Tensor) -> float:
    return float(a.dot(b) / (a.norm() * b.norm()))


def _with_repetitions(found: Explanation, emulated: Emulated, r: Tensor, y_k: Tensor) -> Explanation:
    """With other emulations, where the error is of the cause's size and resembles it, but not digit by digit."""
    if found.explained is None or found.correlation is None or found.size is None or found.explained >= EXPLAINS:
        return found
    if found.correlation < CORRELATED or not 1 / SAME_SIZE <= found.size <= SAME_SIZE:
        return found
    others = (emulated(found.cause, seed) for seed in range(REPETITIONS))
    shares = [_compare(found.cause, r, other, y_k).explained for other in others]
    return replace(found, repeatable=min((share for share in shares if share is not None), default=None))


def _with_one_best(found: Sequence[Explanation], error: float | None) -> list[Explanation]:
    """Mark the best: of those that account for the error, the one with the fewest causes, then the nearest.

    `error` is ||y - r||, None where it is not finite. Accounting for it is to explain 0.9 with a residual within 3
    times the smallest, or to repeat as well as the cause's own emulation does. Repetitions vary: their residuals are
    equal within a factor of 1.25.
    """
    if error is None:
        candidates = [each for each in found if each.best]  # marked already: it overflows on the CPU too
    else:
        near = NEAR * _smallest_residual(found)
        near_repeating = SAME_SIZE * _smallest_residual([each for each in found if each.repeats])
        candidates = [
            each
            for each in found
            if _explains(each, near) or (each.repeats and (each.residual or 0.0) <= near_repeating)
        ]
    best = min(candidates, key=lambda each: (_count(each.cause), each.residual or 0.0), default=None)
    marked = [replace(each, best=each is best) for each in found]
    if best is None:
        share = None if error is None else 0.0
        marked.append(Explanation(UNEXPLAINED, explained=share, residual=error, best=True))
    return marked


def _smallest_residual(found: Iterable[Explanation]) -> float:
    return min((each.residual for each in found if each.residual is not None), default=0.0)


def _explains(each: Explanation, near: float) -> bool:
    if each.explained is None or each.residual is None:
        return False
    return each.explained >= EXPLAINS and each.residual <= near


def conclude(explanations: Sequence[Explanation]) -> str:
    """One line in words."""
    best = next((each for each in explanations if each.best), None)
    if best is None:
        return "nothing to explain: the outputs are equal"
    if best.cause == UNEXPLAINED:
        return _conclude_unexplained(explanations, best.residual)
    words = " and ".join(WORDS[cause] for cause in best.cause.split("+"))
    if best.explained is None:
        return f"{words} alone makes outputs NaN or infinite, on the CPU too"
    if best.repeatable is None:
        return f"{best.explained * 100:.1f} % of the error is {words}"
    return (
        f"the error is that of {words}, which does not repeat to the digit: {best.size:.2f} times as large as "
        f"emulated, with a correlation of {best.correlation:.2f}"
    )


def _conclude_unexplained(explanations: Sequence[Explanation], error: float | None) -> str:
    if error is None:
        return "unexplained: the outputs are NaN or infinite, under none of the known causes"
    if error <= FLOAT32_NOISE:
        return f"unexplained, but of the size of float32 rounding: {error:.1e}"
    shares = [each.explained for each in explanations if each.explained is not None]
    return f"unexplained: none of the known causes explains more than {max([0.0, *shares]) * 100:.0f} %"
