"""Interrupted runs, full disks and folders that can't be written: no log that can pass, no half file, one line."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PERF_QUICK, ROOT, Finished, Runner

import check_accuracy_run_perf as checker
import options
import runlog

# Where a run is cut: before the first record, while it loads, computes, writes a file, and at its very last record.
CUTS = ("run_start", "env", "model", "sample", "accuracy", "reference", "run_end")
CUT = """
import os, signal, sys
sys.path.insert(0, sys.argv.pop(1))
import accuracy_run, options, runlog
how, where = int(sys.argv.pop(1)), sys.argv.pop(1)
record = runlog.RunLog.record
def cut(log, event, **fields):
    if event == where:
        os.kill(os.getpid(), how)
    record(log, event, **fields)
runlog.RunLog.record = cut
if where == "reference":
    import reference
    save_file = reference.save_file
    def save_half(tensors, path, metadata):
        save_file(tensors, path, metadata)
        os.truncate(path, 100)
        os.kill(os.getpid(), how)
    reference.save_file = save_half
options.run(accuracy_run.main)
"""


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory, tiny_vit: Path) -> Path:
    """A folder with the logs of an accuracy and a perf run that pass, and a saved reference."""
    import accuracy_run
    import accuracy_run_perf

    folder = tmp_path_factory.mktemp("complete")
    common = ["--model", str(tiny_vit), "--device", "cpu", "--log-dir", str(folder)]
    saved = ["--save-reference", str(folder / "saved.safetensors")]
    assert accuracy_run.main([*common, "--samples", "1", *saved]) == 0
    assert accuracy_run_perf.main([*common, *PERF_QUICK]) == 0
    return folder


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
@pytest.mark.parametrize("where", CUTS)
def test_a_run_that_is_cut_leaves_nothing_that_passes_and_loses_nothing(
    where: str, how: signal.Signals, complete: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    before = {}
    for name in ("accuracy.log", "benchmark.log", "saved.safetensors"):
        before[name] = (complete / name).read_bytes()
        (tmp_path / name).write_bytes(before[name])
    saved = tmp_path / "saved.safetensors"
    arguments = ["--model", tiny_vit, "--device", "cpu", "--samples", "1", "--log-dir", tmp_path, "--save-reference", saved]
    done = subprocess.run(
        [sys.executable, "-c", CUT, ROOT, str(int(how)), where, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == (130 if how == signal.SIGINT else -9)
    assert done.stderr == ("error: interrupted\n" if how == signal.SIGINT else "")
    assert checker.main([str(tmp_path / name) for name in ("accuracy.log", "benchmark.log")]) == 2
    assert (tmp_path / "accuracy.prev.log").read_bytes() == before["accuracy.log"]
    whole = where in ("accuracy", "run_end", "sample")  # the reference was complete by then
    assert whole or saved.read_bytes() == before["saved.safetensors"]
    left = {path.name for path in tmp_path.iterdir()} - {"accuracy.log", "accuracy.prev.log", *before}
    assert left <= ({"saved.safetensors.new"} if (where, how) == ("reference", signal.SIGKILL) else set())


# --------------------------------------------------------------------------------------------------- full disks
FULL = """
import resource, sys
sys.path.insert(0, sys.argv.pop(1))
limit, script = int(sys.argv.pop(1)), sys.argv.pop(1)
import importlib, options
module = importlib.import_module(script)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.argv[0] = script + ".py"
options.run(module.main)
"""


def on_a_full_disk(limit: int, script: str, *arguments: object, stdout: int = subprocess.PIPE) -> Finished:
    """A script in a process of its own, none of whose files may grow beyond `limit` bytes."""
    command = [sys.executable, "-c", FULL, ROOT, limit, script, *arguments]
    done = subprocess.run([str(part) for part in command], stdout=stdout, stderr=subprocess.PIPE, text=True)
    return Finished(done.returncode, done.stdout or "", done.stderr)


@pytest.mark.parametrize(
    ("limit", "script", "option", "named"),
    [
        (0, "inference", (), "accuracy.log|inference.log|env_check.log"),
        (900, "inference", (), "inference.log"),
        (3000, "accuracy_run", (), "accuracy.log"),
        (20_000, "accuracy_run", ("--save-reference", "full/saved.safetensors"), "saved.safetensors can't be written"),
        (4000, "inference", ("--output", "full/f.safetensors"), "can't be written"),
        (4000, "inference", ("--output", "full/f.npy"), "can't be written"),
    ],
)
def test_a_full_disk_is_one_line(
    limit: int, script: str, option: tuple[str, ...], named: str, tiny_vit: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    wide = ("--samples", "2") if script == "accuracy_run" else ()
    finished = on_a_full_disk(limit, script, "--model", tiny_vit, "--device", "cpu", *wide, *option)
    assert finished.code == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: ")
    assert any(name in line for name in named.split("|")), line
    assert not [path for path in tmp_path.glob("full/*") if not path.name.endswith(".parts")]
    for log in tmp_path.glob("logs/*.log"):
        runs = list(runlog.read_runs(log.read_bytes().splitlines()))if log.name != "env_check.log" else []
        assert all(run.problems for run in runs)


def write_a_log(folder: Path) -> None:
    with runlog.RunLog(folder / "accuracy.log", "accuracy_run.py", []) as log:
        for number in range(3):
            log.record("sample", number=number)


@pytest.mark.parametrize("at", range(1, 6))
def test_a_log_that_can_not_be_written_ends_the_run_and_is_incomplete(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever of its five records is the first that the disk has no room for."""
    write, calls = runlog.RunLog._write, iter(range(1, 100))

    def fill_up(log: runlog.RunLog, text: str, copy: object) -> None:
        if next(calls) >= at:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(log, text, None)

    monkeypatch.setattr(runlog.RunLog, "_write", fill_up)
    with pytest.raises(SystemExit) as left:
        options.run(lambda: write_a_log(tmp_path) or 0)
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device\n"
    runs = list(runlog.read_runs((tmp_path / "accuracy.log").read_bytes().splitlines()))
    assert all(run.problems for run in runs)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("script", ["inference.py", "check_accuracy_run_perf.py"])
def test_standard_output_that_is_full_is_one_line(script: str, complete: Path, tiny_vit: Path, tmp_path: Path) -> None:
    arguments = (complete / "accuracy.log", complete / "benchmark.log")
    if script == "inference.py":
        arguments = ("--model", tiny_vit, "--device", "cpu")
    with open("/dev/full", "w") as full:
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: [Errno 28] No space left on device\n"


def test_a_log_folder_that_is_read_only_is_one_line(run_script: Runner, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir(mode=0o500)
    if os.access(tmp_path / "logs", os.W_OK):
        folder = "/proc"  # this user may write everywhere, but not there
    else:
        folder = "logs"
    finished = run_script("accuracy_run.py", "--log-dir", folder)
    assert finished.code == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith(f"error: the log {folder}/accuracy.log can't be written: ")
