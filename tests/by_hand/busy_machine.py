"""Clean performance runs of a small ViT beside busy processes: none may FAIL because the machine was busy.

    python tests/by_hand/busy_machine.py --runs 100 --busy 2

Every run is judged by the checker. It prints a line a run: how far the limit's rounds lie apart, how near the fastest
pass came to the limit, and how many of its checks of the limit passed, failed or could not be judged. The exit code is
1 where one failed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import accuracy_run_perf
import check_accuracy_run_perf as checker

MODEL = ("--model", "timm/test_vit", "--weights", "random", "--device", "cpu")
QUICK = ("--batch-sizes", "1", "4", "--iterations", "20", "--warmup", "1", "--max-seconds", "2")


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute all the time."""
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in load:
            process.kill()
            process.wait()


def measure(folder: Path) -> list[dict[str, Any]]:
    """The checks of one run against its limit, and the record of that."""
    verdict = folder / "verdict.json"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        accuracy_run_perf.main([*MODEL, *QUICK, "--log-dir", str(folder)])
        checker.main(["--allow-random-weights", "--json", str(verdict), str(folder / "benchmark.log")])
    checks: list[dict[str, Any]] = json.loads(verdict.read_text(encoding="utf-8"))["checks"]
    return [check for check in checks if check["name"].endswith("fastest_of_limit")]


def spread_in(log: Path) -> float:
    """How far the rounds of the limit lie apart, of the only run in a log."""
    lines = log.read_text(encoding="utf-8").splitlines()
    records = [json.loads(line.partition("@record ")[2]) for line in lines if line.startswith("@record ")]
    return float(next(record["spread"] for record in records if record["event"] == "limit"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="default: %(default)s")
    parser.add_argument("--busy", type=int, default=2, metavar="N", help="busy processes (default: %(default)s)")
    args = parser.parse_args()
    found: Counter[str] = Counter()
    with busy(args.busy):
        for index in range(args.runs):
            with tempfile.TemporaryDirectory() as folder:
                checks = measure(Path(folder))
                spread = spread_in(Path(folder) / "benchmark.log")
            found.update(check["verdict"] for check in checks)
            shown = ", ".join(f"{check['value']} {check['verdict']}" for check in checks)
            print(f"run {index + 1}: spread {spread:.1%}, fastest_of_limit {shown}", flush=True)
    print(dict(found))
    return int(found["FAIL"] > 0)


if __name__ == "__main__":
    sys.exit(main())
