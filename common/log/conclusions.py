"""The diagnosis in words: which cause explains an error, in which block it arises, where the time goes. Standard
library only.

It is made of the `cause`, `layer` and `kind` events: the run prints it in English, the pages have both languages.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from common.log.events import Cause, Kind, Layer
from common.log.figures import percent, share
from common.log.formulas import FORWARD, rounding_of, size_of, with_shares
from common.log.reader import UnjudgeableError


class Words(NamedTuple):
    """One text in the languages of the pages. Scripts print English."""

    en: str
    zh: str


UNEXPLAINED = "unexplained"
BEFORE = 3.0  # times its own error: then most of what a block's output is off by came with its input
MOST_OVERLAP = 0.25  # of the whole forward: kinds that take so much more than it say nothing
OUTSTANDING_SHARE = 0.25  # of the time
OUTSTANDING_FACTOR = 1.5  # times its share of the operations
OUTSTANDING_SLOWNESS = 4.0  # times fewer operations a second than the other kinds: attention alone makes up to 3
NEAR_LIMIT = 0.7
MOST_CLASSES = 3  # that are named of a kind
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
            f"{confirmed} of the error is {named.en}: without {it} the device errs by {percent(best.without)}",
            f"误差的 {confirmed} 来自{named.zh}：在设备上去除后误差为 {percent(best.without)}",
        )
    if best.explained is None:
        return Words(
            f"{named.en} alone makes outputs NaN or infinite, on the CPU too",
            f"仅{named.zh}就会使输出出现 NaN 或无穷大，在 CPU 上也是如此",
        )
    if best.repeatable is None:
        explained = share(best.explained)
        return Words(f"{explained} of the error is {named.en}", f"误差的 {explained} 来自{named.zh}")
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
            f"unexplained: switched off on the device, none of {', '.join(denied)} takes the error away",
            f"无法归因：在设备上逐一关闭 {'、'.join(denied)} 后误差仍然存在",
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


# ------------------------------------------------------------------------------------------------ where the time goes
def conclude_kinds(kinds: Sequence[Kind]) -> Words:
    """What limits a forward, from all `kind` events of one batch size: the first of these that is true.

    - The remainder is -25 % or less: the kinds alone take so much longer than the whole that no share can be told.
    - Operations could not be counted: the largest share is named.
    - A kind has a quarter of the time, and no operations; or it has one and a half times the share of the time that it
      has of the operations, and does a quarter as many a second as the other kinds together.
    - Of the remainder, of the kinds without operations and of those with some, one has the most time; the last are near
      the limit where together they reach 70 % of it.

    It is said where the best windows lead to the same as the median ones: on a busy machine long windows and short ones
    are not disturbed alike. Raises UnjudgeableError where the whole is not among the events.
    """
    whole = next((kind for kind in kinds if kind.name == FORWARD), None)
    if whole is None or len(kinds) < 2:
        raise UnjudgeableError("kind records: no whole forward, or no kind in it")
    try:
        reached, gflop = whole.percent_of_limit, whole.gflop
        limits = [gflop / whole.ms / reached] if gflop is not None and reached is not None else []
        (outcome, words), (other, _) = _conclude_by(kinds), _conclude_by(with_shares(kinds, limits, min))
    except (ArithmeticError, ValueError) as error:  # no samples, or of no time; figures that are no numbers together
        raise UnjudgeableError(f"kind records: {error}") from error
    if outcome != other:
        return Words(
            "undecided, the machine was busy: the best windows and the median ones say different things",
            "无法判断，机器较忙：最快的窗口与中位数窗口得出的结论不同",
        )
    return words


def _conclude_by(kinds: Sequence[Kind]) -> tuple[str, Words]:
    """A word for the outcome, and the outcome in words, by the shares of the events as they are."""
    whole = next(kind for kind in kinds if kind.name == FORWARD)
    parts = sorted((kind for kind in kinds if kind is not whole), key=lambda kind: -kind.share)
    between = 0.0 if whole.remainder is None else whole.remainder
    if between <= -MOST_OVERLAP:
        taken = f"{1 - between:.1%}"
        return "overlap", Words(
            f"no kind can be told to limit it: alone they take {taken} of the time of the whole forward",
            f"无法判断瓶颈：各类模块单独计时之和为整个前向的 {taken}",
        )
    if whole.gflop is None:
        name, largest = _kind_name(parts[0]), f"{parts[0].share:.1%}"
        return parts[0].name, Words(
            f"the largest share is that of {name}, {largest} of the time; operations can't be counted",
            f"占比最大的是 {name}，占时间的 {largest}；计算量无法统计",
        )
    outstanding = next((kind for kind in parts if _stands_out(kind, parts, whole.gflop)), None)
    if outstanding is not None:
        name, time = _kind_name(outstanding), f"{outstanding.share:.1%}"
        work = f"{(outstanding.gflop or 0.0) / whole.gflop:.1%}"
        return outstanding.name, Words(
            f"limited by one kind that stands out, {name}: {time} of the time for {work} of the operations",
            f"瓶颈是明显突出的一类模块 {name}：占时间的 {time}，仅占计算量的 {work}",
        )
    return _conclude_largest(parts, between)


def _stands_out(kind: Kind, kinds: Sequence[Kind], of_all: float) -> bool:
    """Whether its share of the time is large, and far above its share of the operations of all, 1e9."""
    if kind.share < OUTSTANDING_SHARE:
        return False
    if kind.gflop is None:
        return True
    others = [other for other in kinds if other is not kind and other.gflop is not None]
    gflop, ms = math.fsum(other.gflop or 0.0 for other in others), math.fsum(other.ms for other in others)
    above = kind.share >= OUTSTANDING_FACTOR * kind.gflop / of_all
    return above and ms > 0 and kind.gflop * ms * OUTSTANDING_SLOWNESS <= gflop * kind.ms


def _conclude_largest(kinds: Sequence[Kind], between: float) -> tuple[str, Words]:
    """Which of matrix products, element-wise operators and the overhead between the kinds has the most time."""
    products = [kind for kind in kinds if kind.gflop is not None]
    others = [kind for kind in kinds if kind.gflop is None]
    of_products, of_others = (math.fsum(kind.share for kind in group) for group in (products, others))
    multiplied, left, elementwise = f"{of_products:.1%}", f"{between:.1%}", f"{of_others:.1%}"
    if between > max(of_products, of_others):
        return "overhead", Words(
            f"limited by overhead between the kinds: {left} of the time, matrix products {multiplied}, element-wise "
            f"operators {elementwise}",
            f"瓶颈是各类模块之间的开销：占时间的 {left}，矩阵乘 {multiplied}，逐元素算子 {elementwise}",
        )
    if of_others > of_products:
        names = ", ".join(map(_kind_name, others))
        return "element-wise", Words(
            f"limited by element-wise operators, so by memory: {names} take {elementwise} of the time, matrix products "
            f"{multiplied}",
            f"瓶颈是逐元素算子，即内存带宽：{names} 占时间的 {elementwise}，矩阵乘 {multiplied}",
        )
    known = [kind for kind in products if kind.percent_of_limit is not None]
    if not known:
        return "products", Words(
            f"limited by matrix products: {multiplied} of the time, without a limit beside them",
            f"瓶颈是矩阵乘：占时间的 {multiplied}，没有可对照的算力上限",
        )
    ms = math.fsum(kind.ms for kind in known)
    reached = math.fsum((kind.percent_of_limit or 0.0) * kind.ms for kind in known) / ms
    if reached >= NEAR_LIMIT:
        return "products", Words(
            f"limited by matrix products near their limit: {multiplied} of the time at {reached:.1%} of it",
            f"瓶颈是接近算力上限的矩阵乘：占时间的 {multiplied}，达到上限的 {reached:.1%}",
        )
    lost = max(known, key=lambda kind: kind.ms * (1 - (kind.percent_of_limit or 0.0)))
    name, own, its = _kind_name(lost), f"{lost.share:.1%}", f"{lost.percent_of_limit or 0.0:.1%}"
    return "products", Words(
        f"limited by matrix products below their limit: {multiplied} of the time at {reached:.1%} of it; most is lost "
        f"in {name}, {own} at {its}",
        f"瓶颈是未达到算力上限的矩阵乘：占时间的 {multiplied}，为上限的 {reached:.1%}；"
        f"损失最多的是 {name}，{own}，为上限的 {its}",
    )


def _kind_name(kind: Kind) -> str:
    """A kind and, of those that are called by what they do, the classes: activation (GELU)."""
    return f"{kind.name} ({', '.join(kind.classes[:MOST_CLASSES])})" if kind.classes else kind.name
