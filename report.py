"""The pages that are published: report.md and report.zh-CN.md with their plots, made from the records of a judgement.

Both pages come from the same code. Needs matplotlib for the plots.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import model_card
from evidence import Group, Judgement, UnjudgeableError, Verdict, one, text
from markdown_text import escape, table, wrap
from options import UserError, first_line
from remarks import caveats_of
from runlog import Run
from sections import NONE, SECTIONS, Say, Subject, device_name, guarded
from whole_files import write_all

PAGES = {"report.md": 0, "report.zh-CN.md": 1}  # the language's place in Words
SHORT = 8  # digits of a hash that tell groups apart


def write(folder: Path, judgement: Judgement, inferences: Sequence[Run]) -> None:
    """Write the pages and plots into the folder. Raises UserError when that can't be done."""
    try:
        import plots
    except ImportError as error:
        reason = first_line(error)
        raise UserError(f"--report draws with matplotlib: {reason}; pip install matplotlib") from error

    contents: dict[str, bytes] = {}
    subjects = []
    for place, group in enumerate(judgement.groups, start=1):
        drawn = plots.draw_all(group)
        names = {name: f"{name}.png" if place == 1 else f"{name}-{place}.png" for name in drawn}
        contents |= {names[name]: image for name, image in drawn.items()}
        subjects.append(Subject(group, [run for run in inferences if belongs(run, group)], names))
    for name, language in PAGES.items():
        contents[name] = page(judgement, subjects, Say(language)).encode()
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


def page(judgement: Judgement, subjects: Sequence[Subject], say: Say) -> str:
    """One page in one language."""
    parts = [model_card.front_matter(judgement.groups), *head(judgement, say)]
    for subject in subjects:
        weights = text(one(subject.group.runs[0], "model"), "weights_sha256")[:SHORT]
        of = f": {escape(subject.group.title)} ({escape(weights)})" if len(subjects) > 1 else ""
        for heading, section in SECTIONS:
            parts += [f"## {say(*heading)}{of}", *guarded(section, subject, say)]
    parts += [f"## {say('Log files', '日志文件')}", *log_files(judgement, subjects, say)]
    return "\n\n".join(map(wrap, parts)) + "\n"


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
        settings.append((escape(text(model, "model")), device_name(env, say)))
    models, devices = (", ".join(dict.fromkeys(names)) for names in zip(*settings, strict=True))
    return say(f"{models} on {devices}", f"{models} 适配验证：{devices}")


def log_files(judgement: Judgement, subjects: Sequence[Subject], say: Say) -> Iterator[str]:
    listed = {id(run): run for run in (*judgement.runs, *(run for subject in subjects for run in subject.inferences))}
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
