"""The checker against mutants of good logs (see fuzz_checker.py), and against logs of any size."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from by_hand import fuzz_checker
from by_hand.fuzz_checker import Pair
from conftest import PERF_QUICK, ROOT
from helpers.logs import MARKER

import check_accuracy_run_perf as checker
from common.log import lines
from common.verdict import judging

SEEDS = 5
MUTANTS = 1000  # for each seed
MIB = 1024 * 1024


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory, tiny_timm: Path) -> tuple[Path, Path]:
    """The logs of a good accuracy and a good perf run of one tiny model on the CPU."""
    import accuracy_run
    import accuracy_run_perf

    folder = tmp_path_factory.mktemp("evidence")
    common = ["--model", str(tiny_timm), "--device", "cpu", "--log-dir", str(folder)]
    assert accuracy_run.main([*common, "--samples", "3"]) == 0
    assert accuracy_run_perf.main([*common, *PERF_QUICK]) == 0
    return folder / "accuracy.log", folder / "benchmark.log"


@pytest.fixture(scope="session")
def pairs(logs: tuple[Path, Path]) -> list[Pair]:
    return fuzz_checker.pairs_of(*logs)


@pytest.mark.parametrize("at", range(3))
def test_the_good_pairs_pass(at: int, pairs: list[Pair], tmp_path: Path) -> None:
    """Else no mutant of them could pass falsely."""
    lines = [(MARKER + json.dumps(record, separators=(",", ":")) + "\n") for run in pairs[at].runs for record in run]
    (tmp_path / "good.log").write_text("".join(lines))
    assert checker.main([str(tmp_path / "good.log")]) == 0
    assert fuzz_checker.may_pass(pairs[at].runs, pairs)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_mutant_passes_unless_its_meaning_is_unchanged(seed: int, pairs: list[Pair]) -> None:
    counts = fuzz_checker.fuzz(pairs, MUTANTS, seed)
    print("\n".join(counts.lines()))
    assert counts.first_faults == []
    assert counts.signed_again > MUTANTS * 0.4
    assert min(counts.verdicts.values()) > MUTANTS * 0.03  # each verdict is reached


def test_the_fuzzer_notices_a_gate_that_is_gone(pairs: list[Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "check_common_facts", lambda runs: judging.check_integrity(runs[0]))
    assert fuzz_checker.fuzz(pairs, 300, 0).faults["false PASS"]


# ------------------------------------------------------------------------------------------------- logs of any size
def checked(log: Path) -> tuple[int, str, str, float, int]:
    """The checker as a process of its own: exit code, output, errors, seconds and peak memory in MiB."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", PEAK, ROOT, log], capture_output=True, text=True)
    *errors, peak = done.stderr.splitlines()
    return done.returncode, done.stdout, "\n".join(errors), time.perf_counter() - start, int(peak.split()[1]) // 1024


PEAK = """
import sys
sys.path.insert(0, sys.argv[1])
import check_accuracy_run_perf
code = check_accuracy_run_perf.main(sys.argv[2:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")), end="", file=sys.stderr)
sys.exit(code)
"""


def padded(logs: tuple[Path, Path], target: Path, kind: str, size: int) -> Path:
    """Both logs in one file, with `size` bytes of something else between their records."""
    lines = b"".join(log.read_bytes() for log in logs).splitlines(keepends=True)
    noise = {
        "lines of noise": b"2026-01-01 00:00:00 INFO some other program says something here\n",
        "one line": b"x" * 1024,
        "a progress bar": b"\r 50%|#####     | 4/8 [00:01<00:00]",
        "records of a run": b'@record {"run":"f","seq":0,"event":"inference","topk":[{"index":1,"value":2.5}]}\n',
        "records of many runs": b"",
        "empty lists": b'@record {"run":"f","seq":0,"event":"x","list":[' + b"[]," * 10_000 + b"[]]}\n",
        "one long record": b"",
    }[kind]
    with target.open("wb") as file:
        file.writelines(lines[:10])
        if kind == "one long record":
            file.write(b'@record {"run":"f","seq":0,"event":"x","text":"' + b"x" * size + b'"}\n')
        elif kind == "records of many runs":
            for number in range(size // 35):
                file.write(b'@record {"run":"%d","seq":0,"event":"x"}\n' % number)
        else:
            for _ in range(0, size, len(noise)):
                file.write(noise)
        file.writelines(lines[10:])
    return target


SIZES = {"lines of noise": 0, "one line": 2, "a progress bar": 2, "records of a run": 2, "records of many runs": 2,
         "empty lists": 2, "one long record": 2}  # fmt: skip


@pytest.mark.parametrize(("kind", "code"), SIZES.items(), ids=SIZES)
def test_a_large_log_takes_little_memory_and_time(
    kind: str, code: int, logs: tuple[Path, Path], tmp_path: Path
) -> None:
    found, output, errors, seconds, peak = checked(padded(logs, tmp_path / "large.log", kind, 40 * MIB))
    assert found == code, output
    assert len(errors.splitlines()) <= 1
    assert peak < 300
    assert seconds < 10  # 200 MB in 10 s, with a factor of 5 for a busy machine
    assert lines.LONGEST_LINE < 40 * MIB
