"""The published pages: every figure is one of the records', both languages agree, nothing in a log becomes markup."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import PERF_QUICK, ROOT, Runner
from helpers.events import read_log
from helpers.hostile import (
    HOSTILE,
    NPU,
    assert_same_structure,
    complete,
    explained,
    on_device,
    out_of_memory,
    poisoned,
    with_all,
    with_speedup,
)
from helpers.logs import Edit, Records, change, drop, edited, find, read_records, with_kinds, with_task
from huggingface_hub import ModelCard
from jinja2 import TemplateError, nodes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

import check_accuracy_run_perf as checker
from common.errors import UserError
from common.log import figures
from common.log.bottlenecks import conclude_kinds
from common.log.events import RunStart
from common.log.formulas import LATENCY_KEYS
from common.log.framing import printable
from common.log.reader import Run, read_runs
from common.report import commands, rendering
from common.report.facts import Page, kinds_of
from common.verdict.evidence import Group, Judgement
from common.verdict.task import conclusion_of

STEMS = ("accuracy", "benchmark", "inference")
LOGS = tuple(f"{stem}.log" for stem in STEMS)
PAGES = ("report.md", "report.zh-CN.md")
PLOTS = ("latency.png", "throughput.png", "kinds.png", "samples.png", "task.png", "blocks.png", "causes.png")
FIGURE = re.compile(r"(?<![\w.-])-?\d+(?:\.\d+)*(?:e[+-]?\d+)?%?")
ANY_DROP = ("--max-accuracy-drop", "99")  # a bound that two images support
WITHOUT_EXPLAIN = ("latency.png", "throughput.png", "samples.png")
RAW = {"samples_ms", "baseline_samples_ms", "fingerprint", "shapes"}  # thousands of figures, none of which is shown

Report = Callable[..., tuple[int, dict[str, str]]]


@pytest.fixture(scope="session")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of all three runs of one model on the CPU, kept from an earlier version."""
    folder = tmp_path_factory.mktemp("evidence")
    for name in LOGS:
        shutil.copy(ROOT / "tests" / "data" / "earlier_logs" / f"pass.{name}", folder / name)
    return folder


@pytest.fixture
def fresh(tmp_path: Path, tiny_timm: Path) -> Path:
    """The logs of all three scripts, run now."""
    import accuracy_run
    import accuracy_run_perf
    import inference

    folder = tmp_path / "fresh"
    common = ["--model", str(tiny_timm), "--device", "cpu", "--log-dir", str(folder)]
    assert inference.main(common) == 0
    assert accuracy_run.main([*common, "--samples", "2"]) == 0
    assert accuracy_run_perf.main([*common, *PERF_QUICK]) == 0
    return folder


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Report:
    """Run the checker with --report, its plots left out: the exit code and the pages by name, `out` beside them."""
    from common.report import plots

    def run(folder: Path, *flags: str) -> tuple[int, dict[str, str]]:
        monkeypatch.setattr(plots, "draw_all", lambda group: {Path(name).stem: b"" for name in PLOTS})
        logs = [str(folder / name) for name in LOGS[:2]]
        code = checker.main([*logs, "--report", str(tmp_path / "pages"), "--verbose", *flags])
        pages = {name: (tmp_path / "pages" / name).read_text(encoding="utf-8") for name in PAGES}
        return code, {**pages, "out": capsys.readouterr().out}

    return run


def copied(evidence: Path, folder: Path, **edits: Edit) -> Path:
    """The logs with an edit of each by its stem, signed again."""
    folder.mkdir(exist_ok=True)
    for name in LOGS:
        edited(evidence / name, folder / name, edits.get(Path(name).stem, lambda records: None))
    return folder


def explained_with_task(records: Records) -> None:
    explained(records)
    with_task(records)


# ---------------------------------------------------------------------------------------------------- the figures
def leaves(value: Any) -> Iterator[str | float]:
    """Every text and number of a record, but its raw samples."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in RAW:
                yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
        yield value


def printed_forms(number: float) -> set[str]:
    """How a figure may stand on a page."""
    plain = {format(number, form) for form in (".0f", ".1f", ".2f", ".3f", ".6f", ".3g", "g")}
    percents = {f"{max(number, 0) * 100:{form}}%" for form in (".0f", ".1f", ".4f", ".3g", ".5g")}
    return plain | percents | {f"{number / 1e6:.1f}", f"{number * 4e-9:.2f}", repr(number)}


def known_figures(folder: Path, printed: str) -> set[str]:
    """All figures of the records, in every form, and those that the checker printed of its own; sums of shares as the
    conclusions about the time state them, and bounds as those about a task do, which have tests of their own.
    """
    known = set(FIGURE.findall(printed))
    for kinds in kinds_of(read_log(folder / "benchmark.log")):
        known |= set(FIGURE.findall(conclude_kinds(kinds).en))
    if conclusion := conclusion_of(read_log(folder / "accuracy.log")):
        known |= set(FIGURE.findall(conclusion.en))
    for name in LOGS:
        for leaf in leaves(read_records(folder / name)):
            known |= set(FIGURE.findall(leaf)) if isinstance(leaf, str) else printed_forms(leaf)
    return known


def figures_of(page: str) -> list[str]:
    return FIGURE.findall(html.unescape(page).replace("x**", " "))


def assert_figures_are_known(folder: Path, pages: dict[str, str]) -> set[str]:
    known = known_figures(folder, pages["out"])
    for name in PAGES:
        assert len(figures_of(pages[name])) > 100
        assert [figure for figure in figures_of(pages[name]) if figure not in known] == []
    return known


def test_the_pages_of_runs_made_now(report: Report, fresh: Path) -> None:
    code, pages = report(fresh)
    assert code == 0, pages["out"]
    assert_figures_are_known(fresh, pages)
    assert not any("incomplete" in page or "不完整" in page for page in pages.values())


def test_every_figure_is_one_of_the_records(report: Report, evidence: Path, tmp_path: Path) -> None:
    folder = copied(evidence, tmp_path / "logs", accuracy=explained_with_task, benchmark=with_all)
    code, pages = report(folder, *ANY_DROP)
    assert code == 0, pages["out"]
    known = assert_figures_are_known(folder, {**pages, "out": pages["out"] + ANY_DROP[1]})
    latency = f"{find(read_records(folder / 'benchmark.log'), 'perf')['avg_latency_ms']:.3f}"
    digit = "1" if latency[-1] != "1" else "2"
    tampered = pages["report.md"].replace(latency, latency[:-1] + digit)
    assert not set(figures_of(tampered)) <= known


def tables(page: str) -> list[list[list[str]]]:
    """The tables of a page: rows of cells, as a reader sees them."""
    blocks = re.findall(r"(?:^\|.*\|$\n?)+", page, re.MULTILINE)
    return [
        [[html.unescape(cell.strip()) for cell in line.strip("|").split("|")] for line in block.splitlines()]
        for block in blocks
    ]


def table_with(page: str, *head: str) -> list[dict[str, str]]:
    """The rows of the table that has these columns, by column."""
    for rows in tables(page):
        if set(head) <= set(rows[0]):
            return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]
    raise AssertionError(f"no table with {head}")


def scaled(event: str, factor: float) -> Edit:
    """All figures of an event are others; the log contradicts itself, and the page shows what it says."""

    def edit(records: Records) -> None:
        for record in records:
            if record["event"] == event:
                changed = {key: value * factor for key, value in record.items() if isinstance(value, float)}
                record.update(changed)

    return edit


@pytest.mark.parametrize("factor", [1.0, 1.2345])
@pytest.mark.parametrize("name", PAGES)
def test_the_tables_are_the_records_cell_by_cell(
    factor: float, name: str, report: Report, evidence: Path, tmp_path: Path
) -> None:
    edits = {"accuracy": scaled("accuracy", factor), "benchmark": scaled("perf", factor)}
    folder = copied(evidence, tmp_path / "logs", **edits)
    code, pages = report(folder)
    assert code == (0 if factor == 1 else 1)

    perf = [record for record in read_records(folder / "benchmark.log") if record["event"] == "perf"]
    rates, latencies = (table_with(pages[name], key) for key in ("throughput_ips", "p50_latency_ms"))
    for record, rate, latency in zip(perf, rates, latencies, strict=True):
        cells = {**rate, **latency}
        assert cells["batch_size"] == str(record["batch_size"])
        assert cells["throughput_ips"] == f"{record['throughput_ips']:.2f}"
        assert cells["end_to_end_ips"] == f"{record['end_to_end_ips']:.2f}"
        assert cells["percent_of_limit"] == f"{record['percent_of_limit']:.1%}"
        for key in LATENCY_KEYS:
            assert cells[key] == ("-" if record[key] is None else f"{record[key]:.3f}"), key

    accuracy = [record for record in read_records(folder / "accuracy.log") if record["event"] == "accuracy"]
    outputs = [f"{record['output']} / {record['reference']}" for record in accuracy]
    rows = table_with(pages[name], *outputs)
    metric = next(iter(rows[0]))
    for row in rows[:-2]:
        for record, output in zip(accuracy, outputs, strict=True):
            assert row[output] == figures.format_metric(row[metric], record[row[metric]])
    assert [rows[-2][output] for output in outputs] == [figures.threshold(record["threshold"]) for record in accuracy]
    assert [rows[-1][output] for output in outputs] == [record["result"] for record in accuracy]


def test_the_inference_result_is_that_of_the_log_beside(report: Report, evidence: Path) -> None:
    _, pages = report(evidence)
    top = find(read_records(evidence / "inference.log"), "inference")["topk"]
    for name in PAGES:
        found = re.findall(r"^  (\d)\. index=(\d+), value=(-?[\d.]+)", pages[name], re.MULTILINE)
        assert found == [(str(at), str(e["index"]), f"{e['value']:.6f}") for at, e in enumerate(top, start=1)]
        assert "Output shape: [1, 1000]\nOutput dtype: torch.float32\n" in pages[name]


def test_a_folder_of_images_does_not_make_a_page_of_a_thousand_tables(
    report: Report, evidence: Path, tmp_path: Path
) -> None:
    def many(records: Records) -> None:
        records[-1:-1] = [dict(find(records, "inference")) for _ in range(40)]

    _, pages = report(copied(evidence, tmp_path / "logs", inference=many))
    for name in PAGES:
        assert len(tables(pages[name])) < 30
    assert "The log has the outputs of more images." in pages["report.md"]


@pytest.mark.parametrize(
    ("edit", "signed"),
    [
        (change("model", "model", "another"), True),
        (change("env", "device", "npu:0"), True),
        (drop("model"), True),
        (drop("run_end"), False),
    ],
)
def test_another_encoders_inference_is_not_shown(
    edit: Edit, signed: bool, report: Report, evidence: Path, tmp_path: Path
) -> None:
    folder = copied(evidence, tmp_path / "logs")
    assert "No inference log of this encoder" not in report(folder)[1]["report.md"]
    edited(evidence / "inference.log", folder / "inference.log", edit, signed)
    assert "No inference log of this encoder" in report(folder)[1]["report.md"]


def test_both_languages_say_the_same(report: Report, evidence: Path, tmp_path: Path) -> None:
    """The same headings, tables, pictures and figures; only the words differ."""
    folder = copied(evidence, tmp_path / "logs", accuracy=explained_with_task, benchmark=with_all)
    english, chinese = (report(folder)[1][name] for name in PAGES)
    assert [len(mark) for mark in re.findall(r"^(#+) ", english, re.M)] == [
        len(mark) for mark in re.findall(r"^(#+) ", chinese, re.M)
    ]
    shapes = [[(len(rows), len(rows[0])) for rows in tables(page)] for page in (english, chinese)]
    assert shapes[0] == shapes[1]
    assert Counter(figures_of(english)) == Counter(figures_of(chinese))
    assert re.findall(r"\]\((.*?png)\)", english) == re.findall(r"\]\((.*?png)\)", chinese)
    assert not re.search(r"[\u4e00-\u9fff]", english.replace("简体中文", ""))
    headings = re.findall(r"^## (.*)$", chinese, re.M)
    assert all(re.search(r"[\u4e00-\u9fff]", heading) for heading in headings)


def test_the_cause_and_the_block_are_said_in_words(report: Report, evidence: Path, tmp_path: Path) -> None:
    _, pages = report(copied(evidence, tmp_path / "logs", accuracy=explained))
    assert "Cause: 99.9% of the squared error is HF32 in the convolutions and the tanh GELU." in pages["report.md"]
    block = "the error arises in block 1 (blocks.1): alone it errs by 3.2100%, others by 0.00125%."
    assert f"Blocks: {block}" in pages["report.md"]
    assert "原因：平方误差的 99.9% 来自卷积使用 HF32 与 GELU 的 tanh 近似。" in pages["report.zh-CN.md"]
    assert "误差产生于 block 1 (blocks.1)：单独计算时误差为 3.2100%" in pages["report.zh-CN.md"]


def test_what_the_error_does_to_the_task_is_said(report: Report, evidence: Path, tmp_path: Path) -> None:
    _, pages = report(copied(evidence, tmp_path / "logs", accuracy=with_task))
    english, chinese = (html.unescape(pages[name]) for name in PAGES)
    assert "2 images of 2 classes (by labels.csv), judged by a vote of their 1 nearest neighbour." in english
    assert re.search(r"of error, 1 of 2 predictions changed \(1 tie\), at most 98% with 95%\s+confidence", english)
    assert "- grace_hopper.jpg crop 1: two -> one (label: two), margin 0.0001%, a tie" in english
    assert "精度评测" in chinese
    assert "按 labels.csv 分为 2 类" in chinese
    for name in PAGES:
        rows = {row[0]: row[1] for table in tables(pages[name]) for row in table if len(row) == 2}
        assert (rows["reference_accuracy"], rows["device_accuracy"], rows["accuracy_drop"]) == ("100%", "50%", "50%")
        assert (rows["changed"], rows["ties"], rows["lost"]) == ("1", "1", "0")


def test_without_a_task_the_page_says_how_to_ask(report: Report, evidence: Path) -> None:
    _, pages = report(evidence)
    assert "`accuracy_run.py --task` adds it." in pages["report.md"]
    assert "运行 `accuracy_run.py --task` 即可生成" in pages["report.zh-CN.md"]


def test_damaged_predictions_leave_a_section_that_says_so(report: Report, evidence: Path, tmp_path: Path) -> None:
    code, pages = report(copied(evidence, tmp_path / "logs", accuracy=damaged_predictions))
    assert code == 2
    assert "The records are incomplete: prediction record: lists of different lengths" in pages["report.md"]


def test_the_noise_floor_is_said_below_the_errors(report: Report, evidence: Path, tmp_path: Path) -> None:
    def with_noise_floor(records: Records) -> None:
        fields = {"event": "noise_floor", "output": "embedding", "relative_l2": 1.25e-6}
        records.insert(-1, {"run": records[0]["run"], "seq": 0, **fields})

    _, pages = report(copied(evidence, tmp_path / "logs", accuracy=with_noise_floor))
    assert "Noise floor of embedding: 0.000125% (the CPU's float32 against its float64)." in pages["report.md"]
    assert "embedding 的噪声基底：0.000125%（CPU float32 与 float64 之差）。" in pages["report.zh-CN.md"]


def test_ranks_are_shown_each_and_together(report: Report, evidence: Path, tmp_path: Path) -> None:
    def several(records: Records) -> None:
        find(records, "run_start")["ranks"] = 2
        fields = {"throughput_ips": [10.123, 20.456], "total_throughput_ips": 30.579, "scaling_efficiency": 0.912}
        fields |= {"alone_throughput_ips": 16.76, "alone": {"calls": 1, "samples_ms": [59.7]}}
        common = {"run": records[0]["run"], "seq": 0, "event": "ranks", "shares": []}
        records.insert(-1, {**common, "batch_size": 1, "status": "ok", **fields})
        records.insert(-1, {**common, "batch_size": 2, "status": "error"})

    _, pages = report(copied(evidence, tmp_path / "logs", benchmark=several))
    for name in PAGES:
        one, two = table_with(pages[name], "total_throughput_ips", "scaling_efficiency")
        assert list(one.values()) == ["1", "ok", "10.12 + 20.46", "30.58", "91.2%"]
        assert list(two.values()) == ["2", "error", "-", "-", "-"]
        assert "torchrun --nproc-per-node 2 accuracy_run_perf.py" in pages[name]
    assert "The first of 2 ranks" in pages["report.md"]


# ---------------------------------------------------------------------------------------------- what is read first
def head_of(page: str) -> str:
    """What a reader sees first: from the title to the first section."""
    return page.split("\n# ", 1)[1].split("\n## ", 1)[0]


def title_of(page: str) -> str:
    return re.findall(r"^# (.*)$", page, re.MULTILINE)[0]


def prose_of(page: str) -> str:
    """A page without its blocks of code, of which one is what the checker printed."""
    return re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)


def test_the_headline_is_right_under_the_verdict(report: Report, evidence: Path, tmp_path: Path) -> None:
    folder = copied(evidence, tmp_path / "logs", benchmark=with_speedup)
    _, pages = report(folder)
    accuracy = [record for record in read_records(folder / "accuracy.log") if record["event"] == "accuracy"]
    perf = [record for record in read_records(folder / "benchmark.log") if record["event"] == "perf"]
    best = max(perf, key=lambda record: record["throughput_ips"])
    wanted = [figures.percent(max(record[key] for record in accuracy)) for key in ("relative_error", "relative_l2")]
    wanted += [f"{find(perf, 'perf', batch_size=1)['avg_latency_ms']:.3f} ms", f"{best['throughput_ips']:.2f}"]
    wanted += [f"{find(read_records(folder / 'benchmark.log'), 'speedup')['speedup']:.2f}x"]
    for name in PAGES:
        verdict, table = head_of(pages[name]).split("\n\n")[1:3]
        assert "PASS" in verdict
        rows = tables(table)[0][2:]
        assert len(rows) == len(wanted)
        for row, figure in zip(rows, wanted, strict=True):
            assert row[1].strip("*").startswith(figure)
        assert all("<= 1%" in row[2] for row in rows[:2])
        assert f"batch {best['batch_size']}" in rows[3][2]


def test_the_headline_has_what_was_measured_alone(report: Report, evidence: Path, tmp_path: Path) -> None:
    def none_finite(records: Records) -> None:
        find(records, "accuracy", output="hidden_state").update(relative_l2=None)

    folder = copied(evidence, tmp_path / "logs", accuracy=none_finite, benchmark=drop("perf", batch_size=1))
    _, pages = report(folder)
    for name in PAGES:
        rows = tables(head_of(pages[name]))[0][2:]
        assert rows[1][1] == "**not finite**"
        assert len(rows) == 3


def test_a_run_on_the_cpu_is_not_said_to_lack_a_cpu_baseline(report: Report, evidence: Path, tmp_path: Path) -> None:
    assert "no CPU baseline" not in report(evidence)[1]["report.md"]
    edit = on_device(**NPU)
    _, pages = report(copied(evidence, tmp_path / "logs", accuracy=edit, benchmark=edit))
    assert "no CPU baseline" in pages["report.md"]
    assert "没有 CPU 基线" in pages["report.zh-CN.md"]


def test_each_warning_and_caveat_is_said_once(report: Report, evidence: Path, tmp_path: Path) -> None:
    _, pages = report(copied(evidence, tmp_path / "logs", benchmark=change("perf", "stable", False, batch_size=1)))
    for name, words in (("report.md", "warning: batch 1 is not stable"), ("report.zh-CN.md", "警告：batch 1")):
        assert prose_of(pages[name]).count(words) == head_of(pages[name]).count(words) == 1
    assert " ".join(prose_of(pages["report.md"]).split()).count("it says nothing about an NPU") == 1


def confirmed(records: Records) -> None:
    """As on a device that was asked."""
    explained(records)
    find(records, "cause", best=True).update(confirmed=0.9712, without=0.00042)


def test_what_the_device_confirmed_is_beside_what_was_explained(report: Report, evidence: Path, tmp_path: Path) -> None:
    def fast(records: Records) -> None:
        confirmed(records)
        find(records, "model")["numerics"] = "fast"

    _, pages = report(copied(evidence, tmp_path / "logs", accuracy=fast, benchmark=change("model", "numerics", "fast")))
    for name, columns in (
        ("report.md", ("explained", "confirmed")),
        ("report.zh-CN.md", ("可解释的误差", "设备上证实")),
    ):
        best, *others = table_with(pages[name], *columns)
        assert [best[column] for column in columns] == ["99.9%", "97.1%"]
        assert [row[columns[0]] for row in others] == ["14.3%", "0.0%"]
    said = " ".join(pages["report.md"].split())
    assert "without them the device errs by 0.0420%. What helps: --numerics strict removes it." in said
    assert "建议：使用 --numerics strict 可消除该误差。" in pages["report.zh-CN.md"]
    _, pages = report(copied(evidence, tmp_path / "logs", accuracy=explained))
    assert "confirmed" not in pages["report.md"]


def test_the_image_that_was_examined_is_named_with_its_error(report: Report, evidence: Path, tmp_path: Path) -> None:
    folder = copied(evidence, tmp_path / "logs", accuracy=explained)
    samples = [record for record in read_records(folder / "accuracy.log") if record["event"] == "sample"]
    image = max(samples, key=lambda sample: sample["relative_l2"])["image"]
    both = [sample["relative_l2"] for sample in samples if sample["image"] == image]
    embedding, hidden_state = map(figures.percent, both)
    _, pages = report(folder)
    said = f"{image}, whose error is the largest: embedding relative_l2 {embedding}, hidden_state relative_l2"
    assert f"{said} {hidden_state}." in " ".join(pages["report.md"].split())
    said = f"{image}：embedding relative_l2 {embedding}，hidden_state relative_l2 {hidden_state}。"
    assert said.replace(" ", "") in "".join(pages["report.zh-CN.md"].split())


def test_the_environment_has_what_an_npu_records(report: Report, evidence: Path, tmp_path: Path) -> None:
    def asked(records: Records) -> None:
        on_device(**NPU)(records)
        switches = {"allow_hf32": {"conv": False, "matmul": False}, "fallback_disabled": True}
        find(records, "env").update(switches, cube_math_type="USE_HF32", jit_compile=True, compatible_impl="1")
        find(records, "numerics")["gelu_by"] = "npu_gelu"

    def timed(records: Records) -> None:
        asked(records)
        loads = {"load_average": 1.25, "own_load": 1.0, "foreign_memory_mb": 512.5}
        settings = {"variables": {"CPU_AFFINITY_CONF": "1"}, "allocator": "libjemalloc.so.2", "governor": "performance"}
        none = {"frequency_driver": None, "allow_internal_format": None}
        both = ({"phase": "start", **loads, **settings, **none}, {"phase": "end", **loads})
        records[-1:-1] = [{"run": records[0]["run"], "seq": 0, "event": "machine", **each} for each in both]

    _, pages = report(copied(evidence, tmp_path / "logs", accuracy=asked, benchmark=timed))
    for name, yes in (("report.md", "yes"), ("report.zh-CN.md", "是")):
        cells = [row for rows in tables(pages[name]) for row in rows]
        assert ["cube_math_type", "USE_HF32"] in cells
        assert ["TORCH_NPU_USE_COMPATIBLE_IMPL", "1"] in cells
        assert [row[1] for row in cells if "jit_compile" in row[0]] == [yes]
        assert [row for row in cells if row[1:] == ["npu_gelu"]]
        assert ["CPU_AFFINITY_CONF", "1"] in cells
        ours = [
            row[1]
            for row in cells
            if re.search("LD_PRELOAD|CPU governor|调频|load average|负载|memory not|内存$", row[0])
        ]
        loads = ["1.2 (1.0)" if yes == "yes" else "1.2（1.0）", "512 MiB"]
        assert ours == ["libjemalloc.so.2", "performance", *loads, *loads]
    _, pages = report(evidence)
    assert not re.search(
        "LD_PRELOAD|governor|cube_math_type|jit_compile|COMPATIBLE_IMPL|npu_gelu", "".join(pages.values())
    )


# --------------------------------------------------------------------------------------------------- how it was run
def started(*argv: str) -> Run:
    return Run("x", "x.py", [RunStart(format=1, script="x.py", argv=list(argv), utc="", code_sha256="", git=None)])


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        ("", ""),
        ("--model demo --device cpu", "--model demo --device cpu"),
        ("--image a.jpg photos --samples 2", "--image PATH/TO/a.jpg PATH/TO/photos --samples 2"),
        ("--image=a.jpg --log-dir=logs", "--image=PATH/TO/a.jpg --log-dir=logs"),
        ("--model timm/vit --weights random", "--model timm/vit --weights random"),
        ("--model mine --weights w.safetensors", "--model PATH/TO/mine --weights PATH/TO/w.safetensors"),
        ("--save-reference r.safetensors", "--save-reference r.safetensors"),
        ("--image .", "--image ."),
        ("--image $(x).jpg", "--image ..."),
    ],
)
def test_a_run_is_shown_as_it_was_typed(argv: str, shown: str) -> None:
    assert commands.run_command(started(*argv.split())) == f"python x.py {shown}".strip()


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        ("", ""),
        ("--require-device npu --threshold=0.5%", "--require-device npu --threshold=0.5%"),
        ("logs/accuracy.log --report report/x", "logs/accuracy.log --report report/x"),
        ("{here}/logs/accuracy.log --report={here}/r", "logs/accuracy.log --report=r"),
        ("/home/somebody/run1/accuracy.log", "run1/accuracy.log"),
        ("/home/somebody/run1 --report /home/somebody/run1/report", "run1 --report run1/report"),
        ("/home/somebody/a.log ~/x.log ../y.log", "PATH/TO/a.log PATH/TO/x.log PATH/TO/y.log"),
    ],
)
def test_the_checker_is_shown_as_it_was_typed_but_for_folders_elsewhere(argv: str, shown: str) -> None:
    given = argv.replace("{here}", str(Path.cwd())).split()
    line = commands.checker_command(given, [started("--log-dir", "run1")])
    assert line == f"python check_accuracy_run_perf.py {shown}".strip()


def test_a_piped_log_is_shown_as_a_pipe() -> None:
    wanted = "cat PATH/TO/log.txt | python check_accuracy_run_perf.py - --require-device npu"
    assert commands.checker_command(["-", "--require-device", "npu"], []) == wanted


def block_of(page: str) -> str:
    return page.split("```bash\n", 1)[1].split("```", 1)[0]


def test_how_to_run_has_the_checkers_flags_and_no_folder_of_the_machine(report: Report, evidence: Path) -> None:
    _, pages = report(evidence, "--min-throughput", "1")
    for name in PAGES:
        block = block_of(pages[name])
        judged = "check_accuracy_run_perf.py PATH/TO/accuracy.log PATH/TO/benchmark.log --report PATH/TO/pages"
        assert f"python {judged} --verbose --min-throughput 1\n" in block
        assert "pip install -r requirements.txt\n" in block
        assert str(evidence) not in pages[name]
        assert pages[name].split("```bash", 1)[0].count("`PATH/TO/`") == 1
    assert "## 推理运行\n" in pages["report.zh-CN.md"]
    comments = re.findall(r"# (.*)", block_of(pages["report.zh-CN.md"]))
    assert comments
    assert all(re.search(r"[\u4e00-\u9fff]", comment) for comment in comments)


def test_on_an_npu_torch_is_kept(report: Report, evidence: Path, tmp_path: Path) -> None:
    edit = on_device(**NPU)
    _, pages = report(copied(evidence, tmp_path / "logs", accuracy=edit, benchmark=edit))
    for name in PAGES:
        assert "> constraints.txt\npip install -c constraints.txt -r requirements.txt\n" in block_of(pages[name])
    edit = on_device(**{**NPU, "simulated": True})
    _, pages = report(copied(evidence, tmp_path / "logs", accuracy=edit, benchmark=edit))
    assert "export PYTHONPATH=tests/simulated_npu" in block_of(pages["report.md"])


# ---------------------------------------------------------------------------------------------- what it proves


def card_of(page: str) -> dict[str, Any]:
    """The front matter, as Hugging Face's own library reads it."""
    data = ModelCard(page).data.to_dict()
    assert data == {key: value for key, value in yaml.safe_load(page.split("---")[1]).items() if value is not None}
    return data


def test_a_real_npu_is_tagged(report: Report, evidence: Path, tmp_path: Path) -> None:
    edit = on_device(**NPU)
    code, pages = report(copied(evidence, tmp_path / "logs", accuracy=edit, benchmark=edit), "--require-device", "npu")
    assert code == 0, pages["out"]
    for name in PAGES:
        card = card_of(pages[name])
        assert card["tags"] == ["NPU", "Ascend", "Ascend910B2", "A2", "910B", "timm"]
        assert card["hardwares"] == ["NPU"]
        assert card["hardware"] == "NPU"
        assert card["library_name"] == "timm"
        assert card["base_model"] in ("timm/tiny", ["timm/tiny"])
        assert "nothing about" not in head_of(pages[name])
    assert "昇腾 NPU" in head_of(pages["report.zh-CN.md"])


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"device": "cpu"}, ("says nothing about an NPU", "不能说明 NPU")),
        ({**NPU, "simulated": True}, ("says nothing about Ascend hardware", "不能说明昇腾硬件")),
        ({**NPU, "device_name": "Ascend910B-SIM"}, ("says nothing about Ascend hardware", "不能说明昇腾硬件")),
    ],
)
def test_a_cpu_and_a_simulation_are_named_first_and_never_tagged_as_an_npu(
    env: dict[str, object], words: tuple[str, str], report: Report, evidence: Path, tmp_path: Path
) -> None:
    edit = on_device(**env)
    _, pages = report(copied(evidence, tmp_path / "logs", accuracy=edit, benchmark=edit))
    for name, word in zip(PAGES, words, strict=True):
        assert word in head_of(pages[name]).split("\n\n")[1].replace("\n> ", " ")
        card = card_of(pages[name])
        named = [*card["tags"], *card.get("hardwares", []), card.get("hardware", ""), pages[name].splitlines()[-1]]
        assert not re.search("NPU|Ascend|910|昇腾", " ".join([*named, title_of(pages[name])]))


def test_random_weights_are_named_first(report: Report, evidence: Path, tmp_path: Path) -> None:
    edit = change("model", "weights_source", "random")
    folder = copied(evidence, tmp_path / "logs", accuracy=edit, benchmark=edit, inference=edit)
    code, pages = report(folder)
    assert code == 2
    assert "Verdict: **CANNOT JUDGE**" in head_of(pages["report.md"])
    assert "random weights" in head_of(pages["report.md"])
    assert "随机权重" in head_of(pages["report.zh-CN.md"])
    assert "base_model" not in card_of(pages["report.md"])


def test_a_failure_is_said_first_with_the_checks_that_failed(report: Report, evidence: Path) -> None:
    code, pages = report(evidence, "--threshold", "1e-9")
    assert code == 1
    assert "Verdict: **FAIL**" in head_of(pages["report.md"])
    assert "结论：**FAIL**" in head_of(pages["report.zh-CN.md"])
    assert "embedding relative_l2" in head_of(pages["report.md"])
    assert "## Performance" in pages["report.md"]


def test_a_damaged_run_is_listed_and_its_figures_are_not_shown(report: Report, evidence: Path, tmp_path: Path) -> None:
    folder = copied(evidence, tmp_path / "logs")
    edited(evidence / "benchmark.log", folder / "benchmark.log", change("perf", "n", 7, batch_size=1), signed=False)
    code, pages = report(folder)
    assert code == 2
    assert "No perf run was among the logs." in pages["report.md"]
    assert "records were changed" in pages["report.md"]
    assert "| relative_l2 |" in pages["report.md"]


def test_an_accuracy_run_that_is_damaged_is_no_run(report: Report, evidence: Path, tmp_path: Path) -> None:
    folder = copied(evidence, tmp_path / "logs")
    edit = change("accuracy", "samples", 7, output="embedding")
    edited(evidence / "accuracy.log", folder / "accuracy.log", edit, signed=False)
    code, pages = report(folder)
    assert code == 2
    assert "No accuracy run was among the logs." in pages["report.md"]
    assert "日志中没有精度运行记录。" in pages["report.zh-CN.md"]


def test_a_record_that_is_missing_ends_its_section_alone(report: Report, evidence: Path, tmp_path: Path) -> None:
    _, pages = report(copied(evidence, tmp_path / "logs", accuracy=drop("numerics")))
    assert "## Verified environment\n\nThe records are incomplete: 0 numerics records, not 1\n" in pages["report.md"]
    assert "## 验证环境\n\n记录不完整：0 numerics records, not 1\n" in pages["report.zh-CN.md"]
    assert "| relative_l2 |" in pages["report.md"]


def test_logs_that_can_not_be_read_leave_a_page_that_says_so(report: Report, tmp_path: Path) -> None:
    code, pages = report(tmp_path / "nowhere")
    assert code == 2
    for name in PAGES:
        assert "CANNOT JUDGE" in head_of(pages[name])
        assert "accuracy.log can't be read: No such file" in " ".join(pages[name].split())
        assert str(tmp_path) not in pages[name]
        assert card_of(pages[name])
    assert "What is missing" in pages["report.md"]


def test_two_groups_have_pages_and_plots_of_their_own(report: Report, evidence: Path, tmp_path: Path) -> None:
    edit = change("model", "weights_sha256", "1" * 64)

    def renamed(records: Records) -> None:
        edit(records)
        for record in records:
            record["run"] = f"x{record['run'][1:]}"

    folder = copied(evidence, tmp_path / "logs")
    for name in LOGS[:2]:
        edited(evidence / name, tmp_path / name, renamed)
        (folder / name).write_text((folder / name).read_text() + (tmp_path / name).read_text())
    code, pages = report(folder)
    assert code == 0, pages["out"]
    assert re.findall(r"^## (.*)$", pages["report.md"], re.M) == ["Encoders", "Judged by"]
    links = re.findall(r"\]\((\S+?)\)", pages["report.md"].partition("## Encoders")[2])
    assert len(set(links)) == 2
    for link in links:
        page = (tmp_path / "pages" / link).read_text()
        headings = re.findall(r"^## (.*)$", page, re.M)
        assert {"Accuracy", "Performance", "Log files"} <= set(headings)
        assert len(headings) == len(set(headings))
        assert f"({link.removesuffix('.md')}-latency.png)" in page
        assert (tmp_path / "pages" / f"{link.removesuffix('.md')}-latency.png").is_file()


# ------------------------------------------------------------------------------------------------- nothing is markup


def test_the_poison_reaches_every_event() -> None:
    """A field that is declared later is poisoned as well."""
    record = {"image": "x", "output_shape": [1], "topk": [{"index": 1, "value": 1.0, "label": None}], "nonfinite": 0}
    record |= {"run": "x", "seq": 0, "event": "inference", "image_sha256": "x"}
    poisoned("bad")([record])
    assert record["topk"] == [{"index": 1, "value": 1.0, "label": "bad"}]
    assert (record["image"], record["image_sha256"], record["output_shape"]) == ("bad", "bad", [1])


@pytest.mark.parametrize("bad", HOSTILE)
def test_no_text_becomes_markup(bad: str, report: Report, evidence: Path, tmp_path: Path) -> None:
    def poison(kind: str, text: str) -> Edit:
        def edit(records: Records) -> None:
            complete(kind)(records)
            poisoned(text)(records)

        return edit

    pages = {}
    for kind, value in (("plain", "name"), ("hostile", bad)):
        folder = copied(evidence, tmp_path / kind, **{name: poison(name, value) for name in STEMS})
        pages[kind] = report(folder)[1]
    for name in PAGES:
        page = pages["hostile"][name]
        assert_same_structure(page, pages["plain"][name])
        assert all(character.isprintable() or character == "\n" for character in page)
        card = card_of(page)
        assert "base_model" not in card
        assert all(re.fullmatch(r"[\w.-]+", word) for word in [*card["tags"], *card.get("hardwares", [])])
    shown = [cell for rows in tables(pages["hostile"]["report.md"]) for row in rows for cell in row]
    assert shown.count(printable(bad).strip()) > 20


# Ways in which somebody may put a value into a template, none of which thinks of escaping.
ADDED = """
{% macro cell(value) %}**{{ value }}**{% endmacro %}
{% set value = page.judgement.error %}
# {{ value }}

{{ value }}

> {{ value }}

- {{ value }}
- in the middle {{ value }} of an item

| a | b |
| --- | --- |
| {{ value }} | **{{ value }}** |
| {{ cell(value) }} | {{ cell(value) ~ value }} |
| {{ "x" ~ value }} | {{ [value, value] | join(", ") }} |
| {{ value | safe }} | {{ value | e }} |
| {% set block %}{{ value }}{% endset %}{{ block }} | {{ "%s" | format(value) }} |
| {% for each in [value] %}{{ each }}{% endfor %} | {{ value if value else none }} |

[link](report.md "{{ value }}")

```text
{{ value }}
```
"""


def rendered(template: str, error: str, folder: Path) -> str:
    (folder / "added.md.j2").write_text(template, encoding="utf-8")
    return "---\n---\n\n" + rendering.render(Page(Judgement([], error=error), []), "added.md.j2", folder)


@pytest.mark.parametrize("bad", HOSTILE)
def test_a_value_that_is_added_to_a_template_is_escaped(bad: str, tmp_path: Path) -> None:
    assert_same_structure(rendered(ADDED, bad, tmp_path), rendered(ADDED, "name", tmp_path))


def test_a_templates_own_text_is_markdown(tmp_path: Path) -> None:
    template = "{% macro strong(value) %}**{{ value }}**{% endmacro %}| {{ strong(page.judgement.error) }} | _x_ |"
    assert rendered(template, "*", tmp_path).endswith("\n\n| **&#42;** | _x_ |\n")


@pytest.mark.parametrize(
    "template",
    [
        "{{ page.nothing }}",
        "{{ nothing }}",
        "{% if page.judgement.nothing is none %}{% endif %}",
        "{{ page.nothing or none }}",
        "{{ startup | figure('nothing_ms') }}",
        "{{ page.judgement.error | nothing }}",
        "{% for run in page.nothing %}{% endfor %}",
        "{{ tables.nothing([]) }}",
    ],
)
def test_a_template_that_names_what_is_not_there_fails(template: str, tmp_path: Path) -> None:
    shutil.copy(rendering.TEMPLATES / "tables.md.j2", tmp_path)
    known = "{% import 'tables.md.j2' as tables %}{% set startup = Startup(load_ms=1, place_ms=2, first_call_ms=3) %}"
    assert rendered(known + "{{ startup | figure('load_ms') }}", "x", tmp_path).endswith("\n\n1\n")
    with pytest.raises(TemplateError, match="nothing"):
        rendered(known + template, "x", tmp_path)


def sections_of(name: str) -> dict[str, set[str]]:
    """The sections of a page's template by their headings: the events, facts and filters that each one names."""
    tree = rendering.environment().parse((rendering.TEMPLATES / f"{name}.j2").read_text(encoding="utf-8"))
    found = {}
    for block in tree.find_all(nodes.CallBlock):
        called = block.call.node
        if isinstance(called, nodes.Name) and called.name == "section":
            named = {node.attr for node in block.find_all(nodes.Getattr)} - {"en", "zh"}
            named |= {node.name for node in block.find_all((nodes.Name, nodes.Filter))}
            found[block.call.args[0].as_const()] = named
    return found


def test_both_templates_have_the_same_sections() -> None:
    """In the same order, each filled from the same facts; a CPU is no card, which English need not say."""
    english, chinese = (sections_of(name) for name in PAGES)
    assert len(english) == len(chinese) >= 8
    for (heading, named), (_, others) in zip(english.items(), chinese.items(), strict=True):
        assert named ^ others <= {"kind"}, heading


def test_prose_is_wrapped(report: Report, evidence: Path, tmp_path: Path) -> None:
    _, pages = report(copied(evidence, tmp_path / "logs", accuracy=explained_with_task, benchmark=with_all))
    for name in PAGES:
        prose = re.sub(r"```.*?```", "", pages[name], flags=re.S)
        assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")] == []
        assert "\n\n\n" not in pages[name]
        assert not re.search(r"[ \t]$", pages[name], re.M)


# ------------------------------------------------------------------------------------------------------- the plots
def odd(records: Records) -> None:
    """An error that is exactly zero, and one that is not finite; margins of nothing."""
    explained_with_task(records)
    find(records, "prediction")["margins"] = [0.0, 0.0]
    find(records, "layer", block=0).update(isolated=0.0, propagated=None)


HOSTILE_PLOT = poisoned("$\\frac{$ \x1b[31m \u202e 中文 <b>" + "long " * 50)


def hostile_kinds(records: Records) -> None:
    with_kinds(records)
    HOSTILE_PLOT(records)
    for record in records:
        if record["event"] == "kind" and record["remainder" if "remainder" in record else "gflop"] is not None:
            record["name"] = "forward" if "remainder" in record else record["name"]


def odd_kinds(records: Records) -> None:
    """Batch size 2 is out of memory, and at the other the kinds take longer than the whole."""
    out_of_memory(records)
    with_kinds(records)
    find(records, "kind", name="forward")["remainder"] = -0.2


def hostile_and_explained(records: Records) -> None:
    explained_with_task(records)
    HOSTILE_PLOT(records)


@pytest.mark.parametrize(
    ("logs", "edits", "drawn"),
    [
        (LOGS[:2], {"accuracy": hostile_and_explained, "benchmark": hostile_kinds}, PLOTS),
        (LOGS[:2], {"accuracy": odd, "benchmark": odd_kinds}, PLOTS),
        (LOGS[:2], {}, WITHOUT_EXPLAIN),
        (LOGS[:1], {}, ("samples.png",)),
    ],
    ids=["hostile names", "odd figures", "no explanation", "no perf run"],
)
def test_the_plots_that_have_content_are_drawn(
    logs: tuple[str, ...],
    edits: dict[str, Edit],
    drawn: tuple[str, ...],
    evidence: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = copied(evidence, tmp_path / "logs", **edits)
    checker.main([*(str(folder / name) for name in logs), "--report", str(tmp_path / "pages")])
    assert {path.name for path in (tmp_path / "pages").iterdir()} == {*PAGES, *drawn}
    for name in PAGES:
        page = (tmp_path / "pages" / name).read_text(encoding="utf-8")
        assert set(re.findall(r"\]\((.*?png)\)", page)) == set(drawn)
    for name in drawn:
        with Image.open(tmp_path / "pages" / name) as image:
            assert image.width == 1600  # twice the pixels of the width at which it is read
            greys = image.convert("L").getcolors()
        assert greys is not None
        assert len(greys) > 20, f"{name} is empty"
    assert "Warning" not in capfd.readouterr().err


def none_measured(records: Records) -> None:
    for row in (record for record in records if record["event"] == "perf"):
        row["status"] = "oom"
    records[:] = [record for record in records if record["event"] != "latencies"]


def in_no_time(records: Records) -> None:
    for record in records:
        if record["event"] == "latencies":
            record["samples_ms"] = [0.0] * 5


def nothing_explains(records: Records) -> None:
    explained(records)
    for record in records:
        if record["event"] == "cause":
            record.update(explained=-5253.5, confirmed=-1e-8, without=0.5)


def nothing_finite(records: Records) -> None:
    explained(records)
    for record in records:
        if record["event"] == "cause":
            record["explained"] = None


def no_error(records: Records) -> None:
    explained(records)
    for record in records:
        if record["event"] == "layer":
            record.update(isolated=0.0, propagated=0.0)
        if record["event"] == "sample":
            record["relative_l2"] = 0.0


def nothing_compared(records: Records) -> None:
    records[:] = [record for record in records if record["event"] not in ("accuracy", "sample")]


def little_explains(records: Records) -> None:
    explained(records)
    for record in records:
        if record["event"] == "cause":
            record.update(explained=0.002)


def of_a_simulation(records: Records) -> None:
    on_device(**{**NPU, "simulated": True})(records)
    find(records, "model")["weights_source"] = "random"


def within_a_few_percent(records: Records) -> None:
    """All times between two round figures."""
    for record in records:
        if record["event"] == "latencies":
            record["samples_ms"] = [7.0 + place / 100 for place in range(len(record["samples_ms"]))]


def one_image(records: Records) -> None:
    kept: list[str] = []
    for record in [record for record in records if record["event"] == "sample"]:
        if record["output"] in kept:
            records.remove(record)
        kept.append(record["output"])


def damaged_predictions(records: Records) -> None:
    with_task(records)
    find(records, "prediction")["device"].pop()


def without_the_whole(records: Records) -> None:
    with_kinds(records)
    records[:] = [record for record in records if record.get("name") != "forward"]


def in_any_time(records: Records) -> None:
    with_kinds(records)
    find(records, "kind", name="mlp").update(share=1e308, parts=[])


def test_kinds_that_nothing_follows_from_leave_a_section_that_says_so(
    report: Report, evidence: Path, tmp_path: Path
) -> None:
    for edit in (in_any_time, without_the_whole):
        code, pages = report(copied(evidence, tmp_path / "logs", benchmark=edit))
        assert code == 2
        assert "The records are incomplete: kind records: " in pages["report.md"]


Drawn = Callable[[str, Edit], Figure | None]


@pytest.fixture
def drawn(evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """A plot of the logs after an edit, as matplotlib has it; None where it was not drawn."""
    from common.report import plots

    made: list[Figure] = []
    new_figure = plots.new_figure
    monkeypatch.setattr(plots, "new_figure", lambda: made.append(new_figure()) or made[-1])

    def draw(name: str, edit: Edit) -> Figure | None:
        kind, plot = plots.PLOTS[name]
        stem = {"perf": "benchmark", "accuracy": "accuracy"}[kind]
        folder = copied(evidence, tmp_path / "logs", **{stem: edit})
        runs = [run for log in LOGS[:2] for run in read_runs((folder / log).read_bytes().splitlines())]
        return made[-1] if plots.draw(plot, Group("", runs), kind) else None

    return draw


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("latency", none_measured),
        ("latency", in_no_time),
        ("throughput", none_measured),
        ("samples", no_error),
        ("samples", nothing_compared),
        ("samples", one_image),
        ("task", lambda records: None),
        ("task", damaged_predictions),
        ("blocks", no_error),
        ("causes", nothing_explains),
        ("causes", nothing_finite),
        ("causes", little_explains),
        ("kinds", lambda records: None),
        ("kinds", without_the_whole),
        ("kinds", in_any_time),
    ],
)
def test_a_plot_without_content_is_not_drawn(name: str, edit: Edit, drawn: Drawn) -> None:
    assert drawn(name, edit) is None


@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [
        ("throughput", out_of_memory, "2\nout of\nmemory"),
        ("causes", confirmed, "confirmed: switched off on the device"),
        ("causes", confirmed, "97.1%"),
        ("task", with_task, "the same prediction"),
        ("task", with_task, "changed, a tie"),
        ("task", with_task, "rounding: 0.001%"),
        ("kinds", with_kinds, "42.0%"),
        ("kinds", with_kinds, "operations"),
        ("causes", explained, "HF32 in the convolutions\n+ the tanh GELU (best)"),
        ("samples", of_a_simulation, "timm/tiny, random weights, float32, simulated npu:0: Ascend910B2"),
        ("latency", within_a_few_percent, "7"),
    ],
)
def test_a_plot_says(name: str, edit: Edit, words: str, drawn: Drawn) -> None:
    figure = drawn(name, edit)
    assert figure is not None
    assert words in {text.get_text() for text in figure.findobj(Text)}


@pytest.mark.parametrize("edit", [within_a_few_percent, lambda records: None])
def test_a_logarithmic_axis_has_a_scale(edit: Edit, drawn: Drawn) -> None:
    figure = drawn("latency", edit)
    assert figure is not None
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    assert len([tick for tick in axes.get_yticks() if low <= tick <= high]) >= 3


def test_the_line_in_a_box_is_the_p50_of_the_table(evidence: Path, drawn: Drawn) -> None:
    figure = drawn("latency", lambda records: None)
    assert figure is not None
    lines = [path.vertices[0, 1] for each in figure.axes[0].collections for path in each.get_paths()]
    perf = [record for record in read_records(evidence / "benchmark.log") if record["event"] == "perf"]
    assert lines == [record["p50_latency_ms"] for record in perf]


@pytest.mark.parametrize("name", ["latency", "throughput", "kinds", "samples", "task", "blocks", "causes"])
def test_no_words_stand_on_what_is_plotted(name: str, drawn: Drawn) -> None:
    """Legends are above the axes, and the figures of bars beyond their ends; nothing else is written inside."""
    edits = {"samples": confirmed, "blocks": confirmed, "causes": confirmed, "task": with_task}
    figure = drawn(name, edits.get(name, with_kinds))
    assert figure is not None
    (axes,) = figure.axes
    figure.canvas.draw()
    inside = [text for text in axes.texts if text.get_text()]
    bars = [bar.get_window_extent() for bar in axes.patches]
    assert not any(text.get_window_extent().overlaps(bar) for text in inside for bar in bars)
    assert name in ("causes", "kinds") or not inside
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_window_extent().y0 >= axes.get_window_extent().y1 - 1


# ------------------------------------------------------------------------------------------------- as a real process
@pytest.mark.parametrize("flag", ["--report", "--json", "--junit"])
def test_what_can_not_be_written_is_an_error(flag: str, report: Report, evidence: Path, tmp_path: Path) -> None:
    """Exit 2, and no verdict that somebody could take for the whole story."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="can't be written"):
        report(evidence, flag, str(tmp_path / "file" / "x"))
    assert not list(tmp_path.rglob("*.part"))
    assert not list(tmp_path.rglob("*.new"))


PACKAGES = ("matplotlib", "jinja2", "yaml")


def without(folder: Path, *packages: str) -> dict[str, str]:
    """An environment in which these can't be imported."""
    folder.mkdir()
    for package in packages:
        (folder / f"{package}.py").write_text(f"raise ModuleNotFoundError('No module named {package}')")
    return {"PYTHONPATH": str(folder)}


def test_only_the_report_needs_packages(evidence: Path, tmp_path: Path, run_script: Runner) -> None:
    logs = [evidence / name for name in LOGS[:2]]
    files = ("--json", tmp_path / "v.json", "--junit", tmp_path / "v.xml")
    env = without(tmp_path / "none", "torch", "numpy", *PACKAGES)
    finished = run_script("check_accuracy_run_perf.py", *logs, *files, env=env)
    assert (finished.code, finished.verdict) == (0, "OVERALL: PASS"), finished.stderr
    assert json.loads((tmp_path / "v.json").read_text())["verdict"] == "PASS"
    for package in PACKAGES:
        env = without(tmp_path / package, package)
        finished = run_script("check_accuracy_run_perf.py", *logs, "--report", tmp_path / "pages", env=env)
        assert finished.code == 2
        wanted = rf"error: --report needs .*: No module named {package}; pip install jinja2 pyyaml matplotlib\n"
        assert re.fullmatch(wanted, finished.stderr)
        assert not (tmp_path / "pages").exists()
