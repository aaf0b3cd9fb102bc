"""One name, one number: a figure is printed alike in a run's log, in the checker's two outputs and on both pages."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PERF_QUICK

import accuracy_run
import accuracy_run_perf
import check_accuracy_run_perf as checker
from common.log import schema
from common.log.events import Limit, Metrics, Perf, RunEnd, Speedup, Startup

Figure = tuple[str, str, str]  # of what (embedding, batch 4, startup), its key in the records, as it is printed

OTHERS = {"threshold", "result"}
KEYS = {key for event in (Metrics, Perf, Startup, Speedup) for key in schema.keys(event)} | OTHERS
# The columns of the log's table, and figures inside a sentence, which may name the batch size behind them.
COLUMNS = {"n": "n", "p50 ms": "p50_latency_ms", "IQR ms": "iqr_latency_ms", "images/s": "throughput_ips",
           "end to end": "end_to_end_ips", "peak MB": "peak_memory_mb", "of limit": "percent_of_limit"}  # fmt: skip
SENTENCES = {
    r"avg ([\d.]+) ms at (batch \d+)": "avg_latency_ms",
    r"([\d.]+) images/s at (batch \d+)": "throughput_ips",
    r"images/s at (batch \d+), ([\d.]+%) of the limit": "percent_of_limit",
    r"(?i)\b(limit) .*?([\d.e-]+) [GT]FLOP/s": "gemm_tflops",
    r"(测试期间的算力上限)：([\d.e-]+) [GT]FLOP/s": "gemm_tflops",
    r"(batch \d+) summary +n=(\d+)": "n",
    r"(?i)(start-?up|启动).*?load_ms\D*?(\d+)": "load_ms",
    r"(?i)(start-?up|启动).*?place_ms\D*?(\d+)": "place_ms",
    r"(?i)(start-?up|启动).*?first_call_ms\D*?(\d+)": "first_call_ms",
    r"\*\*([\d.]+) ms\*\* \| avg_latency_ms": "avg_latency_ms",
}
SAME = {"启动": "startup", "start-up": "startup", "测试期间的算力上限": "limit", "是": "yes", "否": "no"}


def in_sentences(text: str) -> Iterator[Figure]:
    for pattern, key in SENTENCES.items():
        for found in re.finditer(pattern, text):
            value, *of = sorted(found.groups(), key=lambda part: not re.fullmatch(r"[\d.e-]+%?", part))
            yield (of[0] if of else "batch 1"), key, value


def in_lines(text: str) -> Iterator[Figure]:
    """Lines `embedding relative_l2: 0.1%`, and the table below them."""
    heads: list[str] = []
    for line in text.splitlines():
        cells = re.split(r" {2,}", line.strip())
        if found := re.match(r"(?P<of>[\w ]+) (?P<key>\w+): (?P<value>\S+)", line):
            if found["key"] in KEYS:
                yield found["of"], found["key"], found["value"]
        elif cells[0] == "batch":
            heads = cells
        elif heads and len(cells) == len(heads):
            for head, cell in zip(heads[1:], cells[1:], strict=True):
                yield f"batch {cells[0]}", COLUMNS[head], cell


def in_checks(text: str) -> Iterator[Figure]:
    """Rows of the checker's table."""
    for line in text.splitlines():
        name, *cells = re.split(r" {2,}", line)
        of, _, key = name.rpartition(" ")
        if cells and of and key in KEYS:
            yield of, key, cells[0]
        if cells and cells[0].endswith(" records"):
            yield name.split()[0], "records", cells[0].split()[0]


def in_tables(page: str) -> Iterator[Figure]:
    for block in re.findall(r"(?:^\|.*\|$\n?)+", page, re.MULTILINE):
        heads, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        for row in rows:
            cells = dict(zip(heads, row, strict=True))
            of, _, key = row[0].rpartition(" ")
            if "batch_size" in cells:
                batch = f"batch {cells.pop('batch_size')}"
                yield from ((batch, head, cell) for head, cell in cells.items() if head in KEYS)
            elif row[0] in KEYS and "/" in heads[1]:
                yield from ((head.split(" / ")[0], row[0], cells[head]) for head in heads[1:])
            elif of and key in KEYS:
                yield of, key, row[1]
            elif "records_sha256" in cells:
                yield row[1], "records", next(cell for cell in row if cell.isdecimal())


@pytest.fixture(scope="module")
def places(tiny_timm: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Figure]]:
    """All figures of one accuracy and one performance run by where they stand."""
    folder = tmp_path_factory.mktemp("named") / "logs"
    common = ["--model", str(tiny_timm), "--device", "cpu", "--log-dir", str(folder)]
    assert accuracy_run.main([*common, "--samples", "2"]) == 0
    assert accuracy_run_perf.main([*common, *PERF_QUICK]) == 0
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(map(str, words))))
        checker.main([str(folder)])
        glance, printed[:] = "\n".join(printed), []
        checker.main([str(folder), "--verbose", "--report", str(folder / "report")])
        rows = "\n".join(printed)
    texts = [(folder / name).read_text() for name in ("accuracy.log", "benchmark.log")]
    lines = "\n".join(line for text in texts for line in text.splitlines() if "@record" not in line)
    english, chinese = ((folder / "report" / f"report{end}").read_text("utf-8") for end in (".md", ".zh-CN.md"))
    return {
        "log": [*in_lines(lines), *in_sentences(lines)],
        "glance": [*in_sentences(" ".join(glance.split()))],
        "checks": [*in_checks(rows), *in_sentences(rows)],
        "page": [*in_tables(english), *in_sentences(english.replace("\n", " "))],
        "Chinese page": [*in_tables(chinese), *in_sentences(chinese.replace("\n", " "))],
    }


def test_a_figure_has_one_number_wherever_it_is_printed(places: dict[str, list[Figure]]) -> None:
    numbers: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for place, figures in places.items():
        for of, key, value in figures:
            name = SAME.get(of.lower(), of.lower())
            numbers[name, key][SAME.get(value, value)].add(place)
    assert {name: dict(found) for name, found in numbers.items() if len(found) > 1} == {}


def test_the_figures_that_people_quote_are_found_in_every_place(places: dict[str, list[Figure]]) -> None:
    """Else the test above compares nothing."""
    named = {
        place: {(SAME.get(of.lower(), of.lower()), key) for of, key, _ in found} for place, found in places.items()
    }
    pages = named["page"] & named["Chinese page"]
    everywhere = {("embedding", "relative_error"), ("hidden_state", "relative_l2"), ("limit", "gemm_tflops")}
    assert everywhere <= named["log"] & named["checks"] & pages
    assert ("batch 1", "avg_latency_ms") in named["log"] & named["glance"] & pages
    assert {("startup", key) for key in schema.keys(Startup)} <= named["log"] & pages
    assert {("batch 2", key) for key in COLUMNS.values()} <= named["log"] & pages
    assert {("batch 1", key) for key in ("achieved_tflops", "p90_latency_ms", "stable")} <= named["log"] & pages
    assert ("accuracy_run.py", "records") in named["checks"] & pages
    assert {"gemm_tflops"} <= set(schema.keys(Limit))
    assert {"records"} <= set(schema.keys(RunEnd))
