"""What limits a performance run and what spoils it, in words: host or device, and the machine's state.

It is made of the `perf` and `machine` events: the run prints it in English, the pages have both languages. Standard
library only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from common.log.conclusions import Words
from common.log.events import Figures, Machine, Perf
from common.log.figures import format_figure

FULL_QUEUE = 2.0  # times the least issue time of all batch sizes: the host does not issue more for more images


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
