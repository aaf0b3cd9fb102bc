"""The diagnosis in words: which cause explains an error, and in which block it arises. Standard library only.

It is made of the `cause` and `layer` events: the run prints it in English, the pages have both languages.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from common.log.events import Cause, Layer
from common.log.figures import percent, share
from common.log.formulas import rounding_of, size_of
from common.log.reader import UnjudgeableError


class Words(NamedTuple):
    """One text in the languages of the pages. Scripts print English."""

    en: str
    zh: str


UNEXPLAINED = "unexplained"
BEFORE = 3.0  # times its own error: then most of what a block's output is off by came with its input
ATTENTION = "attention"
CAUSES = {
    ATTENTION: Words("the device's fused attention", "设备的融合注意力算子"),
    "bfloat16": Words("bfloat16 rounding", "bfloat16 舍入"),
    "conv_hf32": Words("HF32 in the convolutions", "卷积使用 HF32"),
    "float16": Words("float16 rounding", "float16 舍入"),
    "gelu_tanh": Words("the tanh GELU", "GELU 的 tanh 近似"),
    "matmul_hf32": Words("HF32 in the matrix products", "矩阵乘使用 HF32"),
}


def conclude_causes(causes: Sequence[Cause]) -> Words:
    """Which cause is the best, from all `cause` events of a run. Raises UnjudgeableError where it lacks a figure."""
    best = next((cause for cause in causes if cause.best), None)
    if best is None:
        return Words(
            "nothing but rounding: the CPU's float32 gives the same to the last bit",
            "只有舍入误差：与 CPU float32 的结果逐位相同",
        )
    parts = best.cause.split("+")
    if not set(parts) <= CAUSES.keys():
        return _unexplained(causes, best.residual)
    named = Words(" and ".join(CAUSES[part].en for part in parts), " 与 ".join(CAUSES[part].zh for part in parts))
    if best.confirmed is not None:
        it, confirmed = "them" if len(parts) > 1 else "it", share(best.confirmed)
        return Words(
            f"{confirmed} of the squared error is {named.en}: without {it} the device errs by {percent(best.without)}",
            f"平方误差的 {confirmed} 来自{named.zh}：在设备上去除后误差为 {percent(best.without)}",
        )
    if best.explained is None:
        return Words(
            f"{named.en} alone makes outputs NaN or infinite, on the CPU too",
            f"仅{named.zh}就会使输出出现 NaN 或无穷大，在 CPU 上也是如此",
        )
    if best.repeatable is None:
        explained = share(best.explained)
        return Words(f"{explained} of the squared error is {named.en}", f"平方误差的 {explained} 来自{named.zh}")
    if best.size is None or best.correlation is None:
        raise UnjudgeableError(f"cause record: {best.cause} is repeatable, but has no size or correlation")
    return Words(
        f"the error is that of {named.en}, which does not repeat to the digit: {best.size:.2f} times as large as "
        f"emulated, with a correlation of {best.correlation:.2f}",
        f"误差来自{named.zh}，其舍入无法逐位复现：大小为仿真值的 {best.size:.2f} 倍，相关系数 {best.correlation:.2f}",
    )


def _unexplained(causes: Sequence[Cause], residual: float | None) -> Words:
    if residual is None:
        return Words(
            "unexplained: the outputs are NaN or infinite, under none of the known causes",
            "无法归因：输出出现 NaN 或无穷大，已知原因均不会如此",
        )
    if residual <= rounding_of("float32"):
        return Words(
            f"nothing but rounding: the error is of the size of float32's ({percent(residual)})",
            f"只有舍入误差：大小与 float32 的舍入相当（{percent(residual)}）",
        )
    denied = [cause.cause for cause in causes if cause.confirmed is not None]
    if denied:
        return Words(
            f"unexplained: what can be switched off on the device does not take the error away ({', '.join(denied)})",
            f"无法归因：在设备上关闭可关闭的项后，误差并未消除（{'、'.join(denied)}）",
        )
    largest = max([0.0, *(cause.explained for cause in causes if cause.explained is not None)])
    return Words(
        f"unexplained: none of the known causes explains more than {largest:.0%}",
        f"无法归因：已知原因最多只能解释 {largest:.0%}",
    )


def advise(causes: Sequence[Cause], numerics: str) -> Words | None:
    """What takes the error away, where a flag does."""
    best = next((cause for cause in causes if cause.best), None)
    parts = set(best.cause.split("+")) if best else set()
    flags = []
    if parts & {"conv_hf32", "matmul_hf32", "gelu_tanh"} and numerics == "fast":
        flags.append("--numerics strict")
    if parts & {"float16", "bfloat16"}:
        flags.append("--dtype float32")
    if not flags:
        return None
    given = " ".join(flags)
    return Words(f"{given} removes it", f"使用 {given} 可消除该误差")


def conclude_blocks(layers: Sequence[Layer], dtype: str, error: float | None) -> Words:
    """Where the error of a device that computes in `dtype` arises, from all `layer` events of a run.

    `error` is the worst relative L2 of an output of that image; None where it is not finite.
    """
    if not layers:
        return Words("no block of the main chain was examined", "没有逐 block 记录")
    isolated, propagated = [layer.isolated for layer in layers], [layer.propagated for layer in layers]
    middle = statistics.median_low(map(size_of, isolated))
    blamed = next((at for at, layer in enumerate(layers) if layer.blamed), None)
    if blamed is not None:
        name, found, others = _name(layers[blamed]), _shown(isolated[blamed]), _shown(middle)
        return Words(
            f"the error arises in {name}: alone it errs by {found.en}, others by {others.en}",
            f"误差产生于 {name}：单独计算时误差为 {found.zh}，其余 block 为 {others.zh}",
        )
    worst, first = max(propagated, key=size_of), size_of(propagated[0])
    if size_of(worst) <= rounding_of(dtype):
        if size_of(error) <= rounding_of(dtype):
            return Words(
                f"all blocks are right within rounding ({percent(worst)})",
                f"所有 block 的误差都在舍入范围内（{percent(worst)}）",
            )
        after = _shown(error)
        return Words(
            f"all blocks are right within rounding ({percent(worst)}): the error of {after.en} arises after them",
            f"所有 block 的误差都在舍入范围内（{percent(worst)}）：{after.zh} 的误差产生于其后",
        )
    if first >= size_of(worst) / 2 and size_of(isolated[0]) <= first / BEFORE:
        name, found, alone = _name(layers[0]), _shown(propagated[0]), _shown(isolated[0])
        return Words(
            f"the error enters before {name}: its output is off by {found.en}, alone it errs by {alone.en}",
            f"误差在 {name} 之前已经产生：其输出误差为 {found.zh}，单独计算时仅 {alone.zh}",
        )
    largest = max(range(len(layers)), key=lambda at: size_of(isolated[at]))
    name, found, others = _name(layers[largest]), _shown(isolated[largest]), _shown(middle)
    return Words(
        f"no block stands out: alone they err by {others.en} in the median and {found.en} at most, in {name}",
        f"没有明显异常的 block：单独计算时误差的中位数为 {others.zh}，最大为 {found.zh}，在 {name}",
    )


def _name(layer: Layer) -> str:
    return f"block {layer.block} ({layer.name})"


def _shown(error: float | None) -> Words:
    if error is None or math.isinf(error):
        return Words("NaN or infinity", "NaN 或无穷大")
    return Words(percent(error), percent(error))
