"""What follows from events, in words: the cause of an error and its block, what a latency is spent on, what spoils it.

The run prints it in English, the pages have both languages. Standard library only.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from common.log.events import Cause, Figures, Layer, Machine, Perf
from common.log.figures import format_figure, percent, share
from common.log.formulas import rounding_of, size_of
from common.log.reader import UnjudgeableError


class Words(NamedTuple):
    """One text in the languages of the pages. Scripts print English."""

    en: str
    zh: str


UNEXPLAINED = "unexplained"
FULL_QUEUE = 2.0  # times the least issue time of all batch sizes: the host does not issue more for more images
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


def conclude_bound(rows: Sequence[Perf], batch_size: int, compiled: bool) -> Words | None:
    """What the latency of a batch size is spent on, from all `perf` events of a run, and what helps a slow host.

    None without a queue, or of too few samples: then it is not known.
    """
    timed = {row.batch_size: row.timed.figures for row in rows if row.timed}
    figures = timed.get(batch_size)
    if figures is None or figures.issue is None or figures.issue.issue_ms is None:
        return None
    issue, latency = figures.issue, figures.latency.p50_latency_ms
    if issue.issue_ms is None or latency is None:
        return None
    issued = Words(
        f"issued in {issue.issue_ms:.3f} of {latency:.3f} ms",
        f"下发用时 {issue.issue_ms:.3f} ms，时延 {latency:.3f} ms",
    )
    least, size = min((each.issue.issue_ms, size) for size, each in timed.items() if each.issue and each.issue.issue_ms)
    if issue.bound != "device" and issue.issue_ms > FULL_QUEUE * least:
        return Words(
            f"{issued.en}, at batch {size} in {least:.3f} ms: it may have waited for a full queue, then the device is "
            "the limit",
            f"{issued.zh}，而 batch {size} 仅需 {least:.3f} ms：可能在等待已满的队列，此时瓶颈在设备",
        )
    if issue.bound == "device":
        return Words(f"{issued.en}: the device is the limit", f"{issued.zh}：瓶颈在设备")
    if issue.bound == "both":
        return Words(f"{issued.en}: host and device share it", f"{issued.zh}：主机与设备各占一部分")
    more = _with_more_images(timed, batch_size)
    helps = Words("", "") if compiled else Words("; --compile may help", "；可尝试 --compile")
    return Words(
        f"{issued.en}: the host is the limit{more.en}{helps.en}", f"{issued.zh}：瓶颈在主机下发{more.zh}{helps.zh}"
    )


def _with_more_images(timed: Mapping[int, Figures], batch_size: int) -> Words:
    """What the next larger batch size costs; nothing to say where there is none, or where it costs as much more."""
    latencies = {size: figures.latency.p50_latency_ms for size, figures in timed.items()}
    larger = min((size for size in latencies if size > batch_size), default=batch_size)
    one, other = latencies[batch_size], latencies[larger]
    if one is None or other is None or other / one >= larger / batch_size:
        return Words("", "")
    more = other / one - 1
    cost = Words(f"{more:.0%} more time", f"时间多 {more:.0%}") if more > 0 else Words("no more time", "时间不增加")
    return Words(
        f"; batch {larger} takes {cost.en} for {larger} images instead of {batch_size}",
        f"；batch {larger} 处理 {larger} 张图像（而非 {batch_size} 张），{cost.zh}",
    )


# ---------------------------------------------------------------------------------------------- the machine's state
# MiB: more of the device's memory is another process's. What the driver takes for one that computes is some 500 MiB, so
# that our own stays below, and ours and another's do not.
MOST_FOREIGN_MEMORY_MB = 900.0
BUSY_SHARE = 0.5  # of the CPUs: a load by others above it
WAITS = {"npu": "ASCEND_LAUNCH_BLOCKING", "cuda": "CUDA_LAUNCH_BLOCKING"}  # the variable that makes calls wait
# Their `powersave` follows the load, as Linux documents; that of all others is the lowest frequency.
ADAPTIVE_DRIVERS = ("intel_pstate", "amd-pstate-epp")


def doubts_of_machine(machine: Machine, kind: str, cpu_count: int | None) -> Iterator[Words]:
    """What spoils the figures of a run on this kind of device, on a machine of so many CPUs."""
    settings, phase = machine.settings, "结束" if machine.phase == "end" else "开始"
    if settings:
        waits = WAITS.get(kind)
        if waits and settings.variables.get(waits) == "1":
            yield Words(
                f"{waits}=1 makes every operator wait for the device: it is slower than it need be.",
                f"{waits}=1 使每个算子都等待设备执行完毕：性能数据偏低。",
            )
        if kind == "npu" and settings.variables.get("TASK_QUEUE_ENABLE") == "0":
            yield Words(
                "TASK_QUEUE_ENABLE=0 turns the task queue off: the figures are slower than by default.",
                "TASK_QUEUE_ENABLE=0 关闭了任务队列：性能数据低于默认设置。",
            )
        if settings.governor == "powersave" and settings.frequency_driver not in ADAPTIVE_DRIVERS:
            yield Words(
                "the CPU's governor is powersave, its lowest frequency: what the host issues is slow.",
                "CPU 调频策略为 powersave（最低频率）：主机下发算子较慢。",
            )
    memory = machine.foreign_memory_mb
    if memory is not None and memory > MOST_FOREIGN_MEMORY_MB:
        held = format_figure("foreign_memory_mb", memory)
        yield Words(
            f"{held} MiB of the device's memory held no tensors of this run at its {machine.phase}: it may be shared.",
            f"运行{phase}时有 {held} MiB 已占用的设备内存不属于本次运行的张量：设备可能被共用。",
        )
    if machine.load_average is None or machine.own_load is None or cpu_count is None:
        return
    if machine.load_average - machine.own_load > BUSY_SHARE * cpu_count:
        load, own = (format_figure(key, getattr(machine, key)) for key in ("load_average", "own_load"))
        yield Words(
            f"other processes used the CPUs at the run's {machine.phase}: load {load} on {cpu_count}, {own} its own.",
            f"运行{phase}时有其他进程占用 CPU：负载 {load}（共 {cpu_count} 个 CPU），其中本次运行 {own}。",
        )
