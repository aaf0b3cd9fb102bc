"""What a reader must know beside the verdict: what the evidence does not prove, and what it leaves in doubt.

Every remark is in the languages of the pages, side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from common.log import formulas
from common.log.conclusions import Words
from common.log.events import (
    EAGER,
    NEAREST,
    Accuracy,
    CandidateSource,
    Env,
    Fallback,
    Limit,
    Model,
    NoiseFloor,
    Perf,
    ReferenceSource,
    Repeat,
    Task,
    names_a_simulation,
)
from common.log.figures import percent
from common.log.reader import Run
from common.log.samples import count_of, images_of
from common.verdict import machine
from common.verdict.evidence import Check


def remarks_on(group: Sequence[Run]) -> list[Words]:
    """The remarks on runs of one identity, each once, the gravest last."""
    found = [
        remark
        for run in group
        for remark in (*_doubts(run), *machine.doubts_of(run), *_timing_doubts(run), *_failed_backends(run))
    ]
    return list(dict.fromkeys([*found, *caveats_of(group[0])]))


def _doubts(run: Run) -> Iterator[Words]:
    yield from _sources(run)
    total = count_of(run)
    same = total - len(images_of(run))
    if same > 0:
        yield Words(
            f"warning: {same} of {total} images are the same as others of them.",
            f"警告：{total} 张图像中有 {same} 张与其他图像相同。",
        )
    for fallback in run.all(Fallback):
        names = fallback.operators
        yield Words(f"warning: operators ran on the CPU: {names}.", f"警告：以下算子回退到 CPU 执行：{names}。")
    again = [each for each in run.all(Repeat) if each.way == "alone" and each.first_batch_size == 1]
    changed = [each.relative_l2 for each in again if not each.equal]
    if changed:
        change = percent(max(changed, key=formulas.size_of))
        yield Words(
            f"warning: the same image is not the same twice: {change} relative_l2 from one call to the next.",
            f"警告：同一图像两次推理的结果不逐位相同：两次之间的 relative_l2 为 {change}。",
        )
    for task in run.all(Task):
        if task.by == NEAREST:
            yield Words(
                "the task has no labels: neighbours are compared, and nothing of it is gated.",
                "任务没有标签：仅比较近邻，不作判定。",
            )
    model = run.one(Model)
    if (model.numerics, model.dtype) != ("strict", "float32"):
        return
    floors = {floor.output: floor.relative_l2 for floor in run.all(NoiseFloor)}
    for accuracy in run.all(Accuracy):
        error, output = accuracy.worst.relative_l2, accuracy.output
        if formulas.is_far_above_noise(error, floors.get(output)):
            yield Words(
                f"warning: {output} errs by {percent(error)}: float32 alone is far below that.",
                f"警告：{output} 的误差为 {percent(error)}，远超 float32 本身的舍入误差。",
            )


def _sources(run: Run) -> Iterator[Words]:
    """What was taken from files of inference.py."""
    for candidate in run.all(CandidateSource):
        yield Words(
            f"the device's side is {candidate.file}, a file of inference.py: no encoder ran here.",
            f"设备侧结果取自 inference.py 生成的文件 {candidate.file}：本次未运行编码器。",
        )
    for source in run.all(ReferenceSource):
        if source.computed is not None:
            by, simulated = (
                source.computed,
                names_a_simulation(source.computed.device_name) or source.computed.simulated,
            )
            named = f"{by.device} {by.device_name}, {by.dtype} {by.numerics}"
            yield Words(
                f"the reference is {source.file}: embeddings by {named}{', simulated' if simulated else ''}; "
                "the hidden state was not compared.",
                f"参考为 {source.file}：由 {named} 计算的 embedding{'（模拟设备）' if simulated else ''}；"
                "未比较 hidden state。",
            )


def doubts_of_baseline(checks: Sequence[Check]) -> Iterator[Words]:
    """Where the times of a run and of its baseline can't be told apart."""
    names = [check.name.removesuffix(" against baseline") for check in checks if check.value.startswith("AMBIGUOUS:")]
    if names:
        joined = ", ".join(names)
        yield Words(
            f"warning: AMBIGUOUS against the baseline: {joined}. A quiet machine or more --iterations decides.",
            f"警告：与基线相比结果为 AMBIGUOUS：{joined}。请在空闲的机器上重测，或增大 --iterations。",
        )


def doubts_of_count(group: Sequence[Run], least: int) -> Iterator[Words]:
    """Where an accuracy run compared fewer different images than are asked for."""
    for run in group:
        if not run.all(Accuracy):
            continue
        different = len(images_of(run))
        if different < least:
            compared = "1 image was" if different == 1 else f"{different} different images were"
            yield Words(
                f"warning: {compared} compared; --min-samples asks for {least}.",
                f"警告：比较了 {different} 张不同的图像；--min-samples 要求 {least} 张。",
            )


def _timing_doubts(run: Run) -> Iterator[Words]:
    for limit in run.all(Limit):
        if limit.spread is not None and limit.spread > formulas.STEADY_LIMIT:
            yield Words(
                f"warning: the limit is unsteady: its rounds lie {limit.spread:.1%} apart.",
                f"警告：算力上限不稳定：各轮测量相差 {limit.spread:.1%}。",
            )
    for row in run.all(Perf):
        if row.timed is None:
            continue
        batch, latency, share = str(row.case), row.timed.figures.latency, row.timed.figures.limit.percent_of_limit
        if latency.n < formulas.FEWEST_SAMPLES:
            n = latency.n
            yield Words(f"warning: {batch} was timed {n} times only.", f"警告：{batch} 仅计时 {n} 次。")
        elif not latency.stable:
            yield Words(
                f"warning: {batch} is not stable: the middle half of its times spans more than 10% of the median.",
                f"警告：{batch} 的耗时不稳定：居中一半的耗时，跨度超过中位数的 10%。",
            )
        if share is None:
            yield Words(
                "warning: no limit beside the figures: the encoder's operations can't be counted.",
                "警告：无法统计该编码器的计算量，因此没有可供对照的算力上限。",
            )
        elif share > formulas.MOST_OF_LIMIT:
            yield Words(
                f"warning: {batch} percent_of_limit {share:.1%}: more than counted operations allow.",
                f"警告：{batch} 的 percent_of_limit 为 {share:.1%}，超出按计算量可能达到的值。",
            )


def _failed_backends(run: Run) -> Iterator[Words]:
    """Each once for all batch sizes that it failed at for the same reason."""
    failed: dict[tuple[str, str], list[int]] = {}
    for row in run.all(Perf):
        if row.status != "ok" and row.case.mode != EAGER:
            failed.setdefault((row.case.mode, f"{row.status} ({row.reason})"), []).append(row.batch_size)
    for (mode, words), sizes in failed.items():
        at = ", ".join(map(str, sizes))
        yield Words(
            f"warning: {mode} was not measured at batch {at}: {words}.", f"警告：{mode} 在 batch {at} 未测得：{words}。"
        )


def caveats_of(run: Run) -> Iterator[Words]:
    """What evidence like this run says nothing about."""
    env, model = run.one(Env), run.one(Model)
    if model.numerics != "strict":
        yield Words(
            f"{model.numerics} numerics: the device's defaults, as probed, not what the model asks for.",
            f"{model.numerics} 数值模式：采用设备的默认数值设置（以探测结果为准），而非模型要求的数值。",
        )
    if model.weights_source == "random":
        yield Words(
            "random weights: this says nothing about a pretrained model's weights.",
            "随机权重：不能说明预训练权重的任何情况。",
        )
    if env.device == "cpu":
        yield Words("CPU evidence: it says nothing about an NPU.", "CPU 上的证据：不能说明 NPU 的任何情况。")
    elif env.is_simulated:
        yield Words(
            f"simulated device {env.device_name}: it says nothing about Ascend hardware.",
            f"模拟设备 {env.device_name}：不能说明昇腾硬件的任何情况。",
        )
