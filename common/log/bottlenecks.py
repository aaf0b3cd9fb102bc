"""What limits a performance run and what spoils it, in words: host or device, kinds of modules, the machine's state.

It is made of the `perf`, `kind` and `machine` events: the run prints it in English, the pages have both languages.
Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from common.log.conclusions import Words
from common.log.events import Figures, Kind, Machine, Perf
from common.log.figures import format_figure
from common.log.formulas import FORWARD, with_shares
from common.log.reader import UnjudgeableError

FULL_QUEUE = 2.0  # times the least issue time of all batch sizes: the host does not issue more for more images
MOST_OVERLAP = 0.25  # of the whole forward: kinds that take so much more than it say nothing
OUTSTANDING_SHARE = 0.25  # of the time
OUTSTANDING_FACTOR = 1.5  # times its share of the operations
OUTSTANDING_SLOWNESS = 4.0  # times fewer operations a second than the other kinds: attention alone makes up to 3
NEAR_LIMIT = 0.7
MOST_CLASSES = 3  # that are named of a kind


def conclude_bound(rows: Sequence[Perf], batch_size: int, compiled: bool) -> Words | None:
    """What the latency of a batch size is spent on, from all `perf` events of a run, and what helps a slow host.

    None without a queue, or of too few samples: then it is not known.
    """
    timed = {row.batch_size: row.timed.figures for row in rows if row.timed}
    issue = timed[batch_size].issue if batch_size in timed else None
    latency = timed[batch_size].latency.p50_latency_ms if batch_size in timed else None
    if issue is None or issue.issue_ms is None or latency is None:
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
