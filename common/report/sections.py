"""The sections of a report: a text stands in both languages where it is used, a figure is formatted once.

Every figure comes from a record, and whatever comes from a record is escaped. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from common.cli.environment import PACKAGES
from common.log import conclusions, formulas
from common.log.figures import format_metric, percent
from common.log.runlog import Record, Run
from common.report.markdown import command, escape, fenced, table
from common.verdict.evidence import (
    Group,
    UnjudgeableError,
    Words,
    is_simulated,
    number,
    number_or_none,
    numbers,
    one,
    text,
)

NONE = "-"
MOST_IMAGES = 10  # whose names are shown
MOST_OUTPUTS = 3  # images whose outputs are shown
ACCURACY_ROWS = (*formulas.METRICS, "expected_relative_l2", "threshold", "result")
RATE_KEYS = (
    "throughput_ips",
    "end_to_end_ips",
    "peak_memory_mb",
    *formulas.LIMIT_KEYS,
)
LATENCY_KEYS = ("n", *formulas.LATENCY_KEYS)
FORMS = {"_ms": ".3f", "_ips": ".2f", "_mb": ".0f", "_tflops": ".3f", "_limit": ".1%"}  # by the end of a perf key

CAPTIONS = {
    "latency": Words("Latency of every timed call, by batch size", "各 batch size 下每次计时调用的延迟"),
    "throughput": Words("Throughput over batch size, against the limit", "不同 batch size 的吞吐量与算力上限"),
    "blocks": Words("Error by block", "逐 block 误差"),
    "causes": Words("Error by cause", "按原因拆分的误差"),
}


@dataclass(frozen=True)
class Topic:
    """What a section is about: one group, the inference runs that belong to it, and how its plots' files are called."""

    group: Group
    inferences: Sequence[Run]
    plots: Mapping[str, str]

    @property
    def runs(self) -> list[Run]:
        return [*self.inferences, *self.group.runs]


@dataclass(frozen=True)
class Say:
    """The language of a page: `say(english, chinese)` is the text in it."""

    language: int

    def __call__(self, *words: str) -> str:
        return words[self.language]


Section = Callable[[Topic, Say], Iterator[str]]


def section_or_note(section: Section, topic: Topic, say: Say) -> Iterator[str]:
    """The section, ended by a word where the records lack what it shows."""
    try:
        yield from section(topic, say)
    except UnjudgeableError as error:
        yield f"{say('The records are incomplete', '记录不完整')}: {escape(error)}"


def device_in_words(env: Record, say: Say) -> str:
    """A device in words: an NPU that is simulated is never called one."""
    name, kind = escape(env.get("device_name")), text(env, "device").partition(":")[0].upper()
    if is_simulated(env):
        return say(f"a simulated {kind} ({name})", f"模拟 {kind}（{name}）")
    return say(f"Ascend NPU ({name})", f"昇腾 NPU（{name}）") if kind == "NPU" else f"{kind} ({name})"


# ------------------------------------------------------------------------------------------------------ the encoder
def model_section(topic: Topic, say: Say) -> Iterator[str]:
    model = one(topic.group.runs[0], "model")
    shapes = {sample.get("output"): sample.get("shape") for each in topic.runs for sample in each.events("sample")}
    inferred = [record.get("output_shape") for each in topic.inferences for record in each.events("inference")]
    preprocess = model.get("preprocess")
    counted = [one(run, "model") for run in topic.group.of("perf")] or [model]
    facts = [
        (say("model", "模型"), text(model, "model")),
        (say("library", "模型库"), text(model, "library")),
        (say("architecture", "架构"), text(model, "architecture")),
        (say("parameters", "参数量"), f"{number(model, 'params') / 1e6:.1f}M"),
        (say("input of one image", "单张图像的输入"), Shape(model.get("input_size"))),
        (say("output (embedding)", "输出（embedding）"), Shape(shapes.get("embedding") or next(iter(inferred), None))),
        (say("output (hidden_state)", "输出（hidden_state）"), Shape(shapes.get("hidden_state"))),
        (say("weights", "权重来源"), text(model, "weights_source")),
        (say("SHA-256 of the weights", "权重 SHA-256"), text(model, "weights_sha256")),
        (say("preprocessing", "预处理"), preprocess.get("source") if isinstance(preprocess, dict) else None),
        (say("GFLOP an image", "单张图像计算量（GFLOP）"), rounded(counted[0], "gflop_per_image", ".3f")),
        (say("dtype", "数据类型"), text(model, "dtype")),
    ]
    yield facts_table(facts, say)


def environment_section(topic: Topic, say: Say) -> Iterator[str]:
    run = topic.group.runs[0]
    env, model, probe = one(run, "env"), one(run, "model"), one(run, "numerics")
    facts = [
        (say("device", "设备"), f"{text(env, 'device')}: {env.get('device_name')}"),
        (say("simulated", "是否模拟"), yes(is_simulated(env), say)),
        (say("devices that were visible", "可见设备数"), env.get("device_count")),
        ("CANN", env.get("cann")),
        (say("NPU driver", "NPU 驱动"), env.get("npu_driver")),
        ("Python", env.get("python")),
        *((package, env.get(package)) for package in PACKAGES),
        (say("system", "操作系统"), env.get("platform")),
        (say("CPU, threads", "CPU 及线程数"), f"{env.get('cpu_model')}, {env.get('cpu_threads')}"),
        (say("numerics", "数值模式"), text(model, "numerics")),
        (say("mantissa bits: convolution", "尾数位数：卷积"), probe.get("conv_mantissa_bits")),
        (say("mantissa bits: matrix product", "尾数位数：矩阵乘"), probe.get("matmul_mantissa_bits")),
        (say("mantissa bits: attention", "尾数位数：注意力"), probe.get("attention_mantissa_bits")),
        (say("GELU computes", "GELU 的实际算法"), probe.get("gelu")),
    ]
    yield facts_table([(name, value) for name, value in facts if value is not None], say)


@dataclass(frozen=True)
class Shape:
    """The sizes of a tensor, as a log has them: printed as code, brackets and all."""

    sizes: object

    def __str__(self) -> str:
        known = isinstance(self.sizes, list) and all(isinstance(size, int) for size in self.sizes)
        return f"`{self.sizes}`" if known else NONE


def facts_table(facts: Sequence[tuple[str, object]], say: Say) -> str:
    rows = []
    for name, value in facts:
        shown = str(value) if isinstance(value, Shape) else escape(value)
        rows.append([name, NONE if value is None else shown])
    return table([say("item", "项目"), say("value", "值")], rows)


def usage_section(topic: Topic, say: Say) -> Iterator[str]:
    yield say("What was run, with paths cut to their last part:", "实际运行的命令（路径只保留最后一级）：")
    commands = [command([*launcher_of(run), text(run.start, "script"), *arguments_of(run)]) for run in topic.runs]
    logs = list(dict.fromkeys(run.log for run in topic.group.runs if run.log))
    judged = command(["python", "check_accuracy_run_perf.py", *logs])
    yield fenced(["pip install -r requirements.txt", *commands, judged], "bash")
    if any(text(one(run, "env"), "device").startswith("npu") for run in topic.group.runs):
        yield say(
            "Before them, `source` the `set_env.sh` of the CANN toolkit.",
            "运行前先 `source` CANN toolkit 的 `set_env.sh`。",
        )


def launcher_of(run: Run) -> list[str]:
    count = ranks_in(run)
    return ["python"] if count == 1 else ["torchrun", "--nproc-per-node", f"{count:g}"]


def arguments_of(run: Run) -> list[str]:
    """The recorded arguments, with the model and the device named where they were defaults."""
    argv = [str(argument) for argument in items(run.start, "argv")]
    given = {argument.partition("=")[0] for argument in argv}
    model = [] if "--model" in given else ["--model", text(one(run, "model"), "model")]
    device = [] if "--device" in given else ["--device", text(one(run, "env"), "device")]
    return [*model, *device, *argv]


def inference_section(topic: Topic, say: Say) -> Iterator[str]:
    records = [record for run in topic.inferences for record in run.events("inference")]
    if not records:
        yield say(
            "No inference log of this encoder was among the logs; `inference.py` writes one.",
            "日志中没有该模型的推理记录；运行 `inference.py` 即可生成。",
        )
    for record in records[:MOST_OUTPUTS]:
        top = [entry for entry in items(record, "topk") if isinstance(entry, dict)]
        yield say(
            f"The largest outputs for {escape(record.get('image'))}, of the shape {Shape(record.get('output_shape'))}:",
            f"{escape(record.get('image'))} 的最大输出，输出形状 {Shape(record.get('output_shape'))}：",
        )
        columns = [say("index", "序号"), say("value", "值"), say("label", "类别")]
        rows = [
            [f"{number(e, 'index'):g}", rounded(e, "value", ".6f") or NONE, escape(e.get("label") or NONE)] for e in top
        ]
        yield table(columns, rows)
    if len(records) > MOST_OUTPUTS:
        yield say("The log has the outputs of more images.", "其余图像的输出见日志。")


# --------------------------------------------------------------------------------------------------------- accuracy
def accuracy_section(topic: Topic, say: Say) -> Iterator[str]:
    runs = topic.group.of("accuracy")
    if not runs:
        yield say("No accuracy run was among the logs.", "日志中没有精度运行记录。")
    for run in runs:
        records = run.events("accuracy")
        yield say(
            f"The device against the reference on the CPU, the worst of {samples_in(records)} samples:",
            f"设备输出与 CPU 参考结果对比，取 {samples_in(records)} 个样本中最差的值：",
        )
        names = [f"{escape(text(r, 'output'))} / {escape(text(r, 'reference'))}" for r in records]
        rows = [[key, *(accuracy_cell(record, key) for record in records)] for key in ACCURACY_ROWS]
        yield table([say("metric", "指标"), *names], [row for row in rows if any(cell != NONE for cell in row[1:])])
        for record in run.events("noise_floor"):
            yield say(
                f"Noise floor of {escape(text(record, 'output'))}: {percent(number_or_none(record, 'relative_l2'))} "
                "(the CPU's float32 against its float64).",
                f"{escape(text(record, 'output'))} 的噪声基底：{percent(number_or_none(record, 'relative_l2'))}"
                "（CPU float32 与 float64 之差）。",
            )
    gated = [check for check in topic.group.checks if check.metric]
    if gated:
        yield say("What the checker judged, by its own bound:", "检查脚本按自身阈值给出的判定：")
        columns = [say("check", "检查项"), say("value", "实际值"), say("bound", "要求"), say("verdict", "结论")]
        yield table(columns, [[escape(c.name), escape(c.value), escape(c.bound), str(c.verdict)] for c in gated])


def samples_in(records: Sequence[Record]) -> str:
    return " / ".join(dict.fromkeys(f"{number(record, 'samples'):g}" for record in records))


def accuracy_cell(record: Record, key: str) -> str:
    if key not in record or (key == "expected_relative_l2" and record[key] is None):
        return NONE
    if key == "result":
        return escape(text(record, key))
    return format_metric(key, number_or_none(record, key))


def diagnosis_section(topic: Topic, say: Say) -> Iterator[str]:
    runs = [run for run in topic.group.of("accuracy") if run.events("cause") or run.events("layer")]
    if not runs:
        yield say(
            "The logs hold no explanation of the error; `accuracy_run.py --explain` adds one, and does so by itself "
            "after a FAIL.",
            "日志中没有误差归因；`accuracy_run.py --explain` 可以生成，结果为 FAIL 时会自动生成。",
        )
    for run in runs:
        cause = conclusions.conclude_causes(run.events("cause"))
        yield say(f"Cause: {escape(cause.en)}.", f"原因：{escape(cause.zh)}。")
        if run.events("cause"):
            columns = [say("cause", "原因"), say("explained", "可解释的误差"), say("best", "最佳")]
            yield table(columns, [cause_row(cause, say) for cause in run.events("cause")])
        block = conclusions.conclude_blocks(run.events("layer"), text(one(run, "model"), "dtype"))
        yield say(f"Blocks: {escape(block.en)}.", f"逐 block：{escape(block.zh)}。")
    yield image("blocks", topic, say)
    yield image("causes", topic, say)


def cause_row(cause: Record, say: Say) -> list[str]:
    share = number_or_none(cause, "explained")
    best = say("yes", "是") if cause.get("best") is True else ""
    return [escape(text(cause, "cause")), NONE if share is None else f"{share:.1%}", best or NONE]


# ------------------------------------------------------------------------------------------------------ performance
def performance_section(topic: Topic, say: Say) -> Iterator[str]:
    runs = topic.group.of("perf")
    if not runs:
        yield say("No perf run was among the logs.", "日志中没有性能运行记录。")
    for run in runs:
        yield from performance_of(run, say)
    yield image("throughput", topic, say)
    yield image("latency", topic, say)


def performance_of(run: Run, say: Say) -> Iterator[str]:
    rows = sorted(run.events("perf"), key=lambda row: number(row, "batch_size"))
    mode = "torch.compile" if one(run, "model").get("compiled") is True else "eager"
    count = ranks_in(run)
    card = "CPU" if text(one(run, "env"), "device") == "cpu" else "单卡"
    yield say(
        f"{'One device' if count == 1 else f'The first of {count:g} ranks, all at work'}, inputs on the device, "
        f"{mode}; `end_to_end_ips` adds decoding, preprocessing and the copies.",
        f"{card if count == 1 else f'{count:g} 个进程同时运行时的第一个'}，输入已在设备上，{mode} 模式；"
        "`end_to_end_ips` 还包括解码、预处理和数据拷贝。",
    )
    rates = [[*batch_cells(row), *(perf_cell(row, key) for key in RATE_KEYS), stable(row, say)] for row in rows]
    yield table(["batch_size", "status", *RATE_KEYS, "stable"], rates)
    yield say("Latency of one synchronised call:", "单次同步调用的延迟：")
    yield table(
        ["batch_size", *LATENCY_KEYS], [[batch_cells(r)[0], *(perf_cell(r, k) for k in LATENCY_KEYS)] for r in rows]
    )
    for row in rows:
        if row.get("status") != "ok":
            yield f"batch_size {number(row, 'batch_size'):g}: {escape(row.get('status'))} ({escape(row.get('reason'))})"
    yield from ranks_of(run, say)
    for limit in run.events("limit"):
        yield limit_in_words(limit, say)
    for startup in run.events("startup"):
        load, place, first = (rounded(startup, key, ".0f") for key in ("load_ms", "place_ms", "first_call_ms"))
        yield say(
            f"Start-up, once: load {load} ms, to the device {place} ms, first call {first} ms.",
            f"启动（仅一次）：加载 {load} ms，拷贝到设备 {place} ms，首次调用 {first} ms。",
        )
    yield speedup_in_words(run, say)


def ranks_in(run: Run) -> float:
    """How many processes ran together: torchrun's, or the only one."""
    return number(run.start, "ranks") if "ranks" in run.start else 1


def ranks_of(run: Run, say: Say) -> Iterator[str]:
    """What several devices reached together."""
    records = run.events("ranks")
    if not records:
        return
    yield say("All ranks at the same time, and what of it sharing cost:", "各进程同时运行的总吞吐量与扩展效率：")
    rows = []
    for record in records:
        cells = [NONE, NONE, NONE]
        if record.get("status") == "ok":
            each = [f"{ips:.2f}" for ips in numbers(record, "throughput_ips")]
            total, efficiency = number(record, "total_throughput_ips"), number(record, "scaling_efficiency")
            cells = [" + ".join(each), f"{total:.2f}", f"{efficiency:.1%}"]
        rows.append([*batch_cells(record), *cells])
    yield table(["batch_size", "status", "throughput_ips", "total_throughput_ips", "scaling_efficiency"], rows)


def limit_in_words(limit: Record, say: Say) -> str:
    tflops, dtype, phase = rounded(limit, "gemm_tflops", ".3f"), escape(text(limit, "dtype")), text(limit, "phase")
    when = {"before": "前", "after": "后"}.get(phase, escape(phase))
    return say(
        f"Limit {escape(phase)} the sweep: {tflops} TFLOP/s in matrix products of the encoder's shapes ({dtype}).",
        f"测试{when}的算力上限：{tflops} TFLOP/s（与该编码器同形状的矩阵乘，{dtype}）。",
    )


def speedup_in_words(run: Run, say: Say) -> str:
    env, dtype = one(run, "env"), escape(text(one(run, "model"), "dtype"))
    device = escape(text(env, "device"))
    found = run.events("speedup")
    if not found:
        return say("Speed-up: the log has no CPU baseline.", "加速比：日志中没有 CPU 基线。")
    speedup, baseline = rounded(found[0], "speedup", ".2f"), rounded(found[0], "baseline_latency_ms", ".3f")
    threads = f"{number(found[0], 'baseline_threads'):g}"
    return say(
        f"Speed-up: **{speedup}x**, {device} in {dtype} over the CPU in float32 with {threads} threads "
        f"({baseline} ms), both one image at a time.",
        f"加速比：**{speedup}x**，{device}（{dtype}）相对 CPU"
        f"（float32，{threads} 线程，{baseline} ms），均为单张图像。",
    )


def batch_cells(row: Record) -> list[str]:
    return [f"{number(row, 'batch_size'):g}", escape(text(row, "status"))]


def perf_cell(row: Record, key: str) -> str:
    if row.get("status") != "ok":
        return NONE
    form = next((form for end, form in FORMS.items() if key.endswith(end)), "g")
    return rounded(row, key, form) or NONE


def stable(row: Record, say: Say) -> str:
    known = row.get("stable")
    return NONE if known is None else yes(known is True, say)


def items(record: Record, key: str) -> list[object]:
    found = record.get(key)
    if not isinstance(found, list):
        raise UnjudgeableError(f"{record.get('event')} record: {key} is no list")
    return found


def yes(condition: bool, say: Say) -> str:
    return say("yes", "是") if condition else say("no", "否")


def rounded(record: Record, key: str, form: str) -> str | None:
    """A figure of a record; None where the record has none."""
    if record.get(key) is None:
        return None
    return format(number(record, key), form)


def image(name: str, topic: Topic, say: Say) -> str:
    return f"![{say(*CAPTIONS[name])}]({topic.plots[name]})"


# ----------------------------------------------------------------------------------------------------------- notes
def notes_section(topic: Topic, say: Say) -> Iterator[str]:
    """What the evidence proves, and what it does not."""
    samples = [sample for run in topic.group.of("accuracy") for sample in run.events("sample")]
    images = list(dict.fromkeys(text(sample, "image") for sample in samples))
    sources = escape(", ".join([*images[:MOST_IMAGES], *(["..."] if len(images) > MOST_IMAGES else [])]))
    notes = [*(say(*remark) for remark in topic.group.remarks)]
    lines = [f"- {escape(note)}" for note in notes]
    lines += [
        say(
            f"- Accuracy was compared on these images: {sources or NONE}. It is a consistency check of the device "
            "against the CPU, not an evaluation on a validation set.",
            f"- 精度对比所用图像：{sources or NONE}。这是设备与 CPU 的一致性验证，不是完整验证集上的精度评测。",
        ),
        say(
            "- The figures hold for this device, these versions and these weights; another CANN, driver or batch size "
            "needs a run of its own.",
            "- 以上数字仅适用于该设备、这些软件版本和权重；更换 CANN、驱动或 batch size 需要重新运行。",
        ),
        say(
            "- `records_sha256` finds cuts and accidental edits of a log; it does not prove who wrote it.",
            "- `records_sha256` 用于发现日志被截断或误改，不能证明日志由谁写成。",
        ),
        say(
            "- The weights keep the license of their origin, which the records do not know.",
            "- 权重沿用其来源的许可证，记录中不包含该信息。",
        ),
    ]
    yield "\n".join(lines)


SECTIONS: tuple[tuple[Words, Section], ...] = (
    (Words("Model", "简介"), model_section),
    (Words("Verified environment", "验证环境"), environment_section),
    (Words("How to run", "推理运行"), usage_section),
    (Words("Inference result", "推理结果"), inference_section),
    (Words("Accuracy", "精度验证"), accuracy_section),
    (Words("Diagnosis", "误差分析"), diagnosis_section),
    (Words("Performance", "性能参考"), performance_section),
    (Words("Notes", "注意事项"), notes_section),
)
