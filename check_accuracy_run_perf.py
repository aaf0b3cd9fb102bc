"""Judge the logs of accuracy_run.py and accuracy_run_perf.py: PASS, FAIL or CANNOT JUDGE.

Only complete, consistent evidence can pass: whole logs, accuracy and performance of the same
weights on the same device with the same code, every figure finite and inside its bound, every
summary computed again from its samples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from common.cli import launch, options
from common.errors import UserError
from common.log.events import INFERENCE
from common.log.framing import printable
from common.log.reader import Run
from common.publish import tree
from common.verdict import files, glance, summary
from common.verdict.evidence import Bounds, Check, Judgement
from common.verdict.judging import LOGS, UnreadableLogError, judge, logs_of, read_each, read_logs, unreadable

SCRIPT = "check_accuracy_run_perf.py"
EXAMPLES = """examples:
  python check_accuracy_run_perf.py                          # logs/accuracy.log, logs/benchmark.log
  python check_accuracy_run_perf.py runs/vit_giant           # the logs of a folder
  python check_accuracy_run_perf.py log.txt --require-device npu --verbose
  python check_accuracy_run_perf.py --only accuracy          # before there is a performance log
  cat accuracy_log.txt perf_log.txt | python check_accuracy_run_perf.py -
  python check_accuracy_run_perf.py --baseline logs/benchmark.prev.log --max-regression 5%
  python check_accuracy_run_perf.py runs/npu --compare runs/a100 --min-ratio 0.5
  python check_accuracy_run_perf.py runs/*/ --sort error --csv summary.csv   # many encoders
  python check_accuracy_run_perf.py --require-device npu --report report --json verdict.json
  python check_accuracy_run_perf.py --require-device npu --publish port    # a folder to push

exit codes: 0 PASS, 1 FAIL, 2 CANNOT JUDGE
"""
WIDEST = 36  # columns that a cell may make its column wide; beyond it only its own row moves
INFERENCE_LOG = "inference.log"  # its outputs belong on the pages, and prove nothing
CHECK_LOG = "env_check.log"
LONGEST_CELL = 400  # characters; a hostile log can hold texts of any length


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options.Parser(SCRIPT, __doc__, EXAMPLES)
    parser.add_argument(
        "logs",
        nargs="*",
        metavar="LOG",
        help="logs, gzip too, several runs in one file too, or a folder with an accuracy.log, a benchmark.log; - is "
        "standard input (default: logs/accuracy.log logs/benchmark.log)",
    )
    parser.add_argument(
        "--only", choices=tuple(LOGS), help="judge accuracy or performance alone; runs of the other kind are left out"
    )
    parser.add_argument("--verbose", action="store_true", help="print every check as a row: value, bound, verdict")
    parser.add_argument(
        "--require-device", choices=tuple(options.DEVICE_KINDS), help="FAIL evidence from any other kind of device"
    )
    parser.add_argument(
        "--threshold",
        type=options.percent,
        default="1.0",
        metavar="PERCENT",
        help="the largest relative_error and relative_l2, whatever the log's own was (default: %(default)s)",
    )
    parser.add_argument(
        "--min-samples",
        type=options.positive_int,
        default=1,
        metavar="N",
        help="warn where fewer different images were compared (default: %(default)s)",
    )
    parser.add_argument(
        "--max-accuracy-drop",
        type=options.percent,
        default="1.0",
        metavar="PERCENT",
        help="how much accuracy on the task the device may lose, where a run was asked for it (default: %(default)s)",
    )
    parser.add_argument(
        "--min-throughput",
        type=options.positive_float,
        metavar="IPS",
        help="images a second that the best batch size must reach",
    )
    parser.add_argument(
        "--max-latency-ms",
        type=options.positive_float,
        metavar="MS",
        help="the largest average latency at batch size 1",
    )
    parser.add_argument(
        "--baseline", metavar="LOG", help="an earlier perf log: FAIL what became slower, batch size by batch size"
    )
    parser.add_argument(
        "--max-regression",
        type=options.percent,
        default="5%",
        metavar="PERCENT",
        help="how much slower than the baseline a median may be (default: 5%%)",
    )
    parser.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="LOG",
        help="logs of the same weights on another device, in another dtype, numerics or mode: ratios, errors and what "
        "differs; nothing is gated",
    )
    parser.add_argument(
        "--min-ratio",
        type=options.positive_float,
        metavar="R",
        help="FAIL a batch size whose throughput is below R times that of --compare",
    )
    parser.add_argument(
        "--allow-random-weights", action="store_true", help="judge evidence that was made with --weights random"
    )
    parser.add_argument(
        "--sort",
        choices=tuple(summary.ORDERS),
        default="name",
        help="the order of the table that several encoders give (default: %(default)s)",
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--report",
        metavar="DIR",
        type=Path,
        help="write report.md, report.zh-CN.md and their plots (needs Jinja2, PyYAML and matplotlib); an "
        "inference.log beside a LOG adds its result",
    )
    files.add_argument(
        "--publish",
        metavar="DIR",
        type=Path,
        help="write a folder that is ready to be pushed: the page, the scripts, the logs; what failed after a FAIL",
    )
    files.add_argument("--force", action="store_true", help="--publish into a folder that it wrote before")
    files.add_argument(
        "--language", choices=("zh", "en"), default="zh", help="of the README of --publish (default: %(default)s)"
    )
    files.add_argument(
        "--template",
        metavar="FILE",
        type=Path,
        help="fill a page of your own too, a Jinja2 template, into the folder of --report or --publish",
    )
    files.add_argument("--json", metavar="FILE", type=Path, help="write the verdict, its checks and figures as JSON")
    files.add_argument("--csv", metavar="FILE", type=Path, help="write the table of all encoders, a row each, as CSV")
    files.add_argument("--junit", metavar="FILE", type=Path, help="write one test case a check, as JUnit XML")
    args = parser.parse_args(argv)
    if args.min_ratio is not None and not args.compare:
        parser.error("--min-ratio is of the throughput beside that of --compare LOG")
    if args.force and not args.publish:
        parser.error("--force is for --publish DIR")
    if args.template and not (args.publish or args.report):
        parser.error("--template needs --publish DIR or --report DIR, where its page goes")
    args.judging = judging_words(parser, args)
    of_perf = {
        "--min-throughput": args.min_throughput,
        "--max-latency-ms": args.max_latency_ms,
        "--baseline": args.baseline,
        "--min-ratio": args.min_ratio,
    }
    for flag, value in of_perf.items():
        if value is not None and args.only == "accuracy":
            parser.error(f"{flag} is a bound of performance, which --only accuracy does not judge")
    args.logs = args.logs or [f"logs/{log}" for kind, log in LOGS.items() if args.only in (None, kind)]
    return args


def judging_words(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[str]:
    """The flags that change a verdict, other files left out, as one would type them again."""
    bounds = {field.name for field in fields(Bounds)}
    usual = parser.parse_args([])
    words = ["--only", args.only] if args.only else []
    for action in parser._actions:
        value: Any = getattr(args, action.dest, None)
        if action.dest not in bounds or value == getattr(usual, action.dest):
            continue
        words.append(action.option_strings[0])
        if value is not True:
            words.append(f"{value * 100:g}" if action.type is options.percent else f"{value}")
    return words


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.publish:
        tree.require_free(args.publish, args.force)
    bounds = Bounds(**{field.name: getattr(args, field.name) for field in fields(Bounds)})
    read = read_each(args.logs, args.only)
    for each in read.errors:
        print(f"error: {shortened(str(each))}", file=sys.stderr)
    baseline: list[str] = []
    compared: list[str] = []
    try:
        baseline += logs_of([args.baseline], "perf") if args.baseline else []
        compared += logs_of(args.compare, args.only)
        earlier, others = read_logs(baseline), read_logs(compared)
        judgement = judge(read.runs, earlier, bounds, args.only, others, read.errors, len(read.folders) > 1)
    except UnreadableLogError as error:
        print(f"error: {shortened(str(error))}", file=sys.stderr)
        judgement = unreadable(error, args.only)
    rows = sorted(summary.rows_of(judgement), key=summary.ORDERS[args.sort])
    if len(rows) > 1 and not args.verbose:
        for line in summary.lines_of(rows):
            launch.say(line)
    if args.verbose:
        print_table(judgement.checks)
        for remark in judgement.remarks:
            launch.say(shortened(remark.en))
    else:
        for line in glance.lines_of(judgement):
            launch.say(line)
    if args.report or args.publish:
        typed = sys.argv[1:] if argv is None else list(argv)
        write_pages(args, replace(judgement, argv=typed), read.logs, baseline, compared)
    if args.csv:
        files.write_csv(args.csv, rows)
    if args.json:
        files.write_json(args.json, judgement, rows)
    if args.junit:
        files.write_junit(args.junit, judgement)
    launch.say(f"OVERALL: {judgement.verdict}")
    return int(judgement.verdict)


def print_table(checks: Sequence[Check]) -> None:
    """One line a check, in at most 100 columns unless a name, value or bound is unusually long."""
    rows = [(*map(shortened, (c.name, c.value, c.bound)), str(c.verdict)) for c in checks]
    rows.insert(0, ("check", "value", "bound", "verdict"))
    widths = [max(len(row[column]) for row in rows if len(row[column]) <= WIDEST) for column in range(3)]
    for name, value, bound, verdict in rows:
        launch.say(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {bound:<{widths[2]}}  {verdict}".rstrip())


def shortened(text: str) -> str:
    """A text from a log, printable and of bounded length."""
    return printable(text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]}...")[: 2 * LONGEST_CELL]


def write_pages(
    args: argparse.Namespace, judgement: Judgement, logs: list[str], baseline: list[str], compared: list[str]
) -> None:
    """Write what --report and --publish name; only they need Jinja2, PyYAML and matplotlib."""
    from common.publish import port
    from common.report import folder

    inferences = [run for run in judgement.runs if run.script == INFERENCE]
    paths, found = ([], inferences) if inferences else read_beside(logs)
    if args.report:
        folder.write(args.report, judgement, found, args.template, summary.ORDERS[args.sort])
    if args.publish:
        sources = port.Sources(logs, [*paths, *beside(logs, CHECK_LOG)], baseline, compared)
        port.publish(args.publish, judgement, found, sources, args.judging, args.language, args.template)


def read_beside(logs: Sequence[str]) -> tuple[list[Path], list[Run]]:
    """The inference.log in the folder of each log and its runs; none where there is no readable one."""
    paths: list[Path] = []
    found: list[Run] = []
    for path in beside(logs, INFERENCE_LOG):
        with suppress(UserError):
            found += read_logs([str(path)])
            paths.append(path)
    return paths, found


def beside(logs: Sequence[str], name: str) -> list[Path]:
    """The files of this name in the folders of the logs."""
    paths = {Path(log).parent / name: None for log in logs if log != "-"}
    return [path for path in paths if path.is_file()]


if __name__ == "__main__":
    launch.run(main)
