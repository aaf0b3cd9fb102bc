"""The pages that are published: report.md and report.zh-CN.md with their plots, made from the records of a judgement.

Both pages come from the same code. Needs matplotlib for the plots.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError, first_line
from common.log.runlog import Run
from common.log.whole_files import write_all
from common.report.markdown import escape, table, wrap
from common.report.sections import NONE, SECTIONS, Say, Topic, device_in_words, section_or_note
from common.verdict.evidence import Group, Judgement, UnjudgeableError, Verdict, is_simulated, one, text
from common.verdict.remarks import caveats_of

PAGES = {"report.md": 0, "report.zh-CN.md": 1}  # the language's place in Words
SHORT = 8  # digits of a hash that tell groups apart

# Of the front matter.
LIBRARIES = ("timm", "transformers")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
PLAIN = re.compile(r"[A-Za-z0-9][\w. -]{0,60}", re.ASCII)  # a name that can be a tag
FRAMEWORK = "pytorch"
TASKS = {True: "image-classification", False: "image-feature-extraction"}


def write(folder: Path, judgement: Judgement, inferences: Sequence[Run]) -> None:
    """Write the pages and plots into the folder. Raises UserError when that can't be done."""
    try:
        from common.report import plots
    except ImportError as error:
        reason = first_line(error)
        raise UserError(f"--report draws with matplotlib: {reason}; pip install matplotlib") from error

    contents: dict[str, bytes] = {}
    topics = []
    for place, group in enumerate(judgement.groups, start=1):
        drawn = plots.draw_all(group)
        names = {name: f"{name}.png" if place == 1 else f"{name}-{place}.png" for name in drawn}
        contents |= {names[name]: image for name, image in drawn.items()}
        topics.append(Topic(group, [run for run in inferences if belongs(run, group)], names))
    for name, language in PAGES.items():
        contents[name] = page(judgement, topics, Say(language)).encode()
    write_all(folder, contents)


def belongs(run: Run, group: Group) -> bool:
    """Whether a whole inference run is of the group's encoder and device. It may not have hashed the weights."""
    if run.problems:
        return False
    try:
        model, env = one(run, "model"), one(run, "env")
    except UnjudgeableError:
        return False
    wanted, device = one(group.runs[0], "model"), one(group.runs[0], "env")
    keys = ("model", "architecture", "weights_source", "dtype", "numerics")
    same = all(model.get(key) == wanted.get(key) for key in keys) and env.get("device") == device.get("device")
    return same and model.get("weights_sha256") in (None, wanted.get("weights_sha256"))


def page(judgement: Judgement, topics: Sequence[Topic], say: Say) -> str:
    """One page in one language."""
    parts = [front_matter(judgement.groups), *head(judgement, say)]
    for topic in topics:
        weights = text(one(topic.group.runs[0], "model"), "weights_sha256")[:SHORT]
        of = f": {escape(topic.group.title)} ({escape(weights)})" if len(topics) > 1 else ""
        for heading, section in SECTIONS:
            parts += [f"## {say(*heading)}{of}", *section_or_note(section, topic, say)]
    parts += [f"## {say('Log files', '日志文件')}", *log_files(judgement, topics, say)]
    return "\n\n".join(map(wrap, parts)) + "\n"


# ------------------------------------------------------------------------------------------------- the front matter
def front_matter(groups: Sequence[Group]) -> str:
    """A model card's metadata, YAML between two `---`, for Hugging Face, ModelScope and Modelers.

    Hugging Face reads `library_name`, `pipeline_tag`, `base_model` and `tags`, ModelScope `frameworks`, `tasks`,
    `base_model` and `tags`, Modelers `hardwares`. There is no license: the records do not know it. Names from the
    records are quoted, and left out where they are no plain names. The NPU and its tags are claimed only for what ran
    on one: not for the CPU, and not for a simulation.
    """
    runs = [run for group in groups for run in group.runs]
    models = [one(run, "model") for run in runs]
    libraries = _unique(str(model.get("library")) for model in models if model.get("library") in LIBRARIES)
    hub_ids = _unique(
        model["model"]
        for model in models
        if HUB_ID.fullmatch(model["model"]) and model.get("weights_source") == model["model"]
    )
    tasks = _unique(TASKS[model.get("classifier") is True] for model in models)
    hardware = _unique(name for run in runs for name in _hardware(run))
    lines = ["---"]
    if len(libraries) == 1:
        lines.append(f"library_name: {libraries[0]}")
    if len(tasks) == 1:
        lines += [f"pipeline_tag: {tasks[0]}", *_list("tasks", tasks)]
    lines += _list("frameworks", [FRAMEWORK])
    lines += _list("base_model", [json.dumps(hub_id) for hub_id in hub_ids])
    lines += _list("hardwares", hardware)
    lines += _list("tags", _unique(tag for run in runs for tag in _tags(run)) + libraries)
    return "\n".join([*lines, "---"])


def _hardware(run: Run) -> list[str]:
    """The kind of device that computed; a simulated one is none."""
    env = one(run, "env")
    return [] if is_simulated(env) else [env["device"].partition(":")[0].upper()]


def _tags(run: Run) -> list[str]:
    env = one(run, "env")
    kind, name = env["device"].partition(":")[0], str(env.get("device_name"))
    if is_simulated(env):
        return ["simulation"]
    if kind != "npu":
        return [kind.upper()]
    return ["NPU", "Ascend", *([json.dumps(name)] if PLAIN.fullmatch(name) else [])]


def _list(key: str, values: list[str]) -> list[str]:
    return [f"{key}:", *(f"  - {value}" for value in values)] if values else []


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


# --------------------------------------------------------------------------------------------------------- the head
def head(judgement: Judgement, say: Say) -> Iterator[str]:
    """The title; the verdict, and what the evidence does not prove, before anything else; what did not pass."""
    yield f"# {title(judgement, say)}"
    caveats = {caveat for group in judgement.groups for caveat in caveats_of(group.runs[0])}
    remarks = dict.fromkeys(remark for group in judgement.groups for remark in reversed(group.remarks))
    quoted = [f"{say('Verdict: ', '结论：')}**{judgement.verdict}**"]
    for remark in sorted(remarks, key=lambda remark: remark not in caveats):
        quoted.append(f"**{escape(say(*remark))}**" if remark in caveats else escape(say(*remark)))
    yield "\n>\n".join(f"> {line}" for line in quoted)
    other = say("[简体中文](report.zh-CN.md)", "[English](report.md)")
    yield say(
        f"{other}. Every figure on this page is taken from the records of the logs at its end, which "
        "`check_accuracy_run_perf.py` judged.",
        f"{other}。本页的每个数字都取自文末所列日志中的记录，结论由 `check_accuracy_run_perf.py` 给出。",
    )
    failed = [check for check in judgement.checks if check.verdict is not Verdict.PASS]
    if failed:
        yield say("These checks did not pass:", "以下检查未通过：")
        columns = [say("check", "检查项"), say("value", "实际值"), say("bound", "要求"), say("verdict", "结论")]
        rows = [[escape(c.name), escape(c.value), escape(c.bound), str(c.verdict)] for c in failed]
        yield table(columns, rows)
    if judgement.error:
        yield f"{say('A log could not be read', '有日志无法读取')}: {escape(judgement.error)}"
    if not judgement.groups:
        yield say(
            "What is missing: a whole accuracy or perf run, whose records this page would show.",
            "缺少完整的精度或性能运行记录，因此本页没有可展示的内容。",
        )


def title(judgement: Judgement, say: Say) -> str:
    if not judgement.groups:
        return say("Evidence that can't be judged", "无法判定的证据")
    settings = []
    for group in judgement.groups:
        model, env = one(group.runs[0], "model"), one(group.runs[0], "env")
        settings.append((escape(text(model, "model")), device_in_words(env, say)))
    models, devices = (", ".join(dict.fromkeys(names)) for names in zip(*settings, strict=True))
    return say(f"{models} on {devices}", f"{models} 适配验证：{devices}")


def log_files(judgement: Judgement, topics: Sequence[Topic], say: Say) -> Iterator[str]:
    listed = {id(run): run for run in (*judgement.runs, *(run for topic in topics for run in topic.inferences))}
    columns = [say("log", "日志"), say("script", "脚本"), say("time", "时间"), say("run", "运行编号")]
    columns += [say("records", "记录数"), "records_sha256", say("state", "状态")]
    rows = [log_row(run, say) for run in listed.values()]
    if not rows:
        yield say("None was read.", "没有读到日志。")
        return
    yield table(columns, rows)


def log_row(run: Run, say: Say) -> list[str]:
    end: Mapping[str, Any] = run.records[-1] if run.records[-1]["event"] == "run_end" else {}
    facts = [run.log, run.start.get("script"), run.start.get("utc"), run.start["run"], end.get("records")]
    state = "; ".join(run.problems) or say("whole", "完整")
    return [escape(NONE if fact is None else fact) for fact in (*facts, end.get("records_sha256"), state)]
