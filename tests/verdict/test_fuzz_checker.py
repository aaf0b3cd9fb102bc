"""The checker against mutants of good logs (see fuzz_checker.py), and against logs of any size."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from by_hand import fuzz_checker
from by_hand.fuzz_checker import Pair
from conftest import ROOT
from helpers.logs import MARKER, text_of

import check_accuracy_run_perf as checker
from common.log import lines, reader
from common.verdict import judging

SEEDS = 5
MUTANTS = 1000  # for each seed
MIB = 1024 * 1024


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The logs of a good accuracy and a good perf run of one tiny model on the CPU."""
    return fuzz_checker.make_logs(tmp_path_factory.mktemp("evidence"))


@pytest.fixture(scope="session")
def pairs(logs: tuple[Path, Path]) -> list[Pair]:
    return fuzz_checker.pairs_of(*logs)


@pytest.mark.parametrize("at", range(3))
def test_the_good_pairs_pass(at: int, pairs: list[Pair], tmp_path: Path) -> None:
    """Else no mutant of them could pass falsely."""
    lines = [f"{MARKER}{text_of(record)}\n" for run in pairs[at].runs for record in run]
    (tmp_path / "good.log").write_text("".join(lines))
    assert checker.main([str(tmp_path / "good.log"), "--max-accuracy-drop", fuzz_checker.DROP]) == 0
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
    assert any(fuzz_checker.fuzz(pairs, MUTANTS, seed).faults["false PASS"] for seed in range(SEEDS))


# ------------------------------------------------------------------------------------------------- logs of any size
def checked(log: Path) -> tuple[int, str, str, int]:
    """The checker as a process of its own: exit code, output, errors and peak memory in MiB."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, ROOT, log, "--max-accuracy-drop", fuzz_checker.DROP],
        capture_output=True,
        text=True,
    )
    *errors, peak = done.stderr.splitlines()
    return done.returncode, done.stdout, "\n".join(errors), int(peak.split()[1]) // 1024


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
def test_a_large_log_takes_little_memory(kind: str, code: int, logs: tuple[Path, Path], tmp_path: Path) -> None:
    found, output, errors, peak = checked(padded(logs, tmp_path / "large.log", kind, 40 * MIB))
    assert found == code, output
    assert len(errors.splitlines()) <= 1
    assert peak < 300
    assert lines.LONGEST_LINE < 40 * MIB


def work(log: Path) -> int:
    """How many calls and returns of functions judging a log takes: a count that no load of the machine changes."""
    count = 0

    def note(*event: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(note)
    try:
        checker.main([str(log)])
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("kind", SIZES)
def test_the_work_grows_as_a_log_does_and_no_faster(kind: str, logs: tuple[Path, Path], tmp_path: Path) -> None:
    """Twice the text is twice the calls at most; what is in a call, as the search in a line, is linear by nature."""
    none, one, two = (work(padded(logs, tmp_path / "log.txt", kind, size)) for size in (0, MIB // 2, MIB))
    assert two - none < 2.2 * (one - none) + none


MANY = {
    "markers": b'@record {"run":"f","seq":0,"event":"x"} ',
    "colours": b"\x1b[1;31m[\x1b[0m",
    "colours that are cut": b"\x1b[" + b"0" * 30,
    "quoted markers": b'@record {\\"run\\":\\"f\\",\\"seq\\":0,\\"event\\":\\"x\\"}" ',
}


@pytest.mark.parametrize("kind", MANY)
def test_a_line_of_many_markers_takes_no_longer_than_they_do_in_lines(kind: str) -> None:
    """Side by side on the same machine, the best of several: a search that went back for each would be far slower."""

    def seconds(lines: list[bytes]) -> float:
        start = time.perf_counter()
        list(reader.read_runs(lines))
        return time.perf_counter() - start

    texts = [MANY[kind] + b"@record"] * 20_000
    pairs = [(seconds(texts), seconds([b"".join(texts)])) for _ in range(5)]
    assert min(together / apart for apart, together in pairs) < 10
