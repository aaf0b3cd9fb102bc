"""How a script starts and ends: exit codes, one-line errors, its log, and imports that fail."""

from __future__ import annotations

import argparse
import errno
import io
import os
import shlex
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Finished, Runner
from helpers.logs import read_run

from common.cli import launch
from common.errors import UserError
from common.log.framing import MARKER

LOGS = {"inference.py": "inference.log", "accuracy_run.py": "accuracy.log", "accuracy_run_perf.py": "benchmark.log"}


def run_main(run_script: Runner, folder: Path, body: str, *arguments: str) -> Finished:
    """Run `launch.run` in its own process over a main of these statements."""
    body = "\n".join(f"    {line}" for line in body.splitlines())
    imports = "from common.cli import launch, options\nfrom common.errors import UserError"
    code = f"{imports}\ndef main():\n{body}\nlaunch.run(main)"
    (folder / "script.py").write_text(code)
    return run_script(folder / "script.py", *arguments, env={"PYTHONPATH": str(ROOT)})


def only_error_line(stderr: str) -> str:
    (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    return line


# ------------------------------------------------------------------------------------------------------ exit codes
def test_the_exit_code_is_what_main_returns(tmp_path: Path, run_script: Runner) -> None:
    assert [run_main(run_script, tmp_path, f"return {code}").code for code in (0, 1, 2)] == [0, 1, 2]


def test_a_user_error_is_one_line_and_exit_2(tmp_path: Path, run_script: Runner) -> None:
    done = run_main(run_script, tmp_path, "raise UserError('no such image: a.jpg')")
    assert (done.code, done.stdout, done.stderr) == (2, "", "error: no such image: a.jpg\n")


def test_a_user_error_with_a_cause_is_one_line_too(tmp_path: Path, run_script: Runner) -> None:
    body = "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise UserError('broken') from error"
    done = run_main(run_script, tmp_path, body)
    assert (done.code, done.stderr) == (2, "error: broken\n")


def test_a_user_error_can_forge_no_line(tmp_path: Path, run_script: Runner) -> None:
    done = run_main(run_script, tmp_path, r"raise UserError('a\nresult: PASS\r\x1b[2K@record {} \udcff')")
    assert done.code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "\x1b" not in done.stderr
    assert MARKER not in done.stderr


def test_debug_shows_the_traceback_of_a_user_error_before_its_line(tmp_path: Path, run_script: Runner) -> None:
    done = run_main(run_script, tmp_path, "raise UserError('broken')", "--debug")
    assert done.code == 2
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1] == "error: broken"


@pytest.mark.parametrize("error", ["RuntimeError('lost')", "ValueError()", "KeyError('x')", "OSError('lost too')"])
def test_what_was_not_foreseen_stays_a_traceback_and_is_no_verdict(
    tmp_path: Path, run_script: Runner, error: str
) -> None:
    done = run_main(run_script, tmp_path, f"raise {error}")
    assert done.code == 70
    assert done.stderr.startswith("Traceback")
    assert not any(line.startswith("error: ") for line in done.stderr.splitlines())


def test_an_interrupt_is_one_line_and_exit_130(tmp_path: Path, run_script: Runner) -> None:
    done = run_main(run_script, tmp_path, "raise KeyboardInterrupt")
    assert (done.code, done.stderr) == (130, "error: interrupted\n")


@pytest.mark.parametrize("script", LOGS)
def test_a_log_folder_that_can_not_be_made_is_a_user_error(tmp_path: Path, run_script: Runner, script: str) -> None:
    (tmp_path / "file").touch()
    done = run_script(script, "--log-dir", tmp_path / "file" / "logs")
    assert (done.code, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert only_error_line(done.stderr).endswith("--log-dir names another folder")


@pytest.mark.parametrize("script", LOGS)
def test_debug_shows_the_traceback_of_a_script(tmp_path: Path, run_script: Runner, script: str) -> None:
    (tmp_path / "file").touch()
    done = run_script(script, "--debug", "--log-dir", tmp_path / "file" / "logs")
    assert done.code == 2
    assert "Traceback" in done.stderr
    assert only_error_line(done.stderr) == done.stderr.splitlines()[-1]


class Full(io.StringIO):
    """Standard output on a disk that is full: what is written waits, and no flush gets rid of it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.descriptor = descriptor

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fileno(self) -> int:
        return self.descriptor


def test_standard_output_that_is_full_is_one_line_and_nothing_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Python flushes once more at its end: into nothing then."""
    with (tmp_path / "full").open("w") as file:
        monkeypatch.setattr(sys, "stdout", Full(file.fileno()))
        with pytest.raises(SystemExit) as left:
            launch.run(lambda: 0)
        assert os.path.samestat(os.fstat(file.fileno()), Path(os.devnull).stat())
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device\n"


# ------------------------------------------------------------------------------------------------ logs and imports
def test_a_user_error_closes_the_log_with_status_error(tmp_path: Path) -> None:
    args = argparse.Namespace(log_dir=tmp_path, argv=[])
    with pytest.raises(UserError), launch.open_log(args, "inference.py", "inference.log"):
        raise UserError("no such image: a.jpg")
    run = read_run(tmp_path / "inference.log")
    assert run.problems == ["the run ended with status 'error': UserError: no such image: a.jpg"]


def test_a_log_that_is_a_folder_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "inference.log").mkdir()
    with pytest.raises(UserError, match="can't be written"):
        launch.open_log(argparse.Namespace(log_dir=tmp_path, argv=[]), "inference.py", "inference.log")


def test_a_package_that_is_missing_is_a_user_error_that_names_it() -> None:
    with pytest.raises(UserError, match="no_such_package is not installed: pip install"), launch.import_errors():
        import no_such_package  # type: ignore[import-not-found]  # noqa: F401


def test_torch_npu_without_cann_is_a_user_error_that_names_the_cure() -> None:
    """The words are torch's own, when a device backend that it loads by itself fails."""
    with pytest.raises(UserError, match=r"set_env\.sh"), launch.import_errors():
        raise RuntimeError("Failed to load the backend extension: torch_npu.")


@pytest.mark.parametrize("error", [RuntimeError("something else"), ImportError("cannot import name 'x'"), OSError()])
def test_other_errors_of_an_import_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, launch.import_errors():
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("argv", "checker"),
    [
        ([], ""),
        (["--model", "demo", "--log-dir", "runs/a b"], " 'runs/a b'"),
        (["--weights", "random"], " --allow-random-weights"),
        (["--weights", "random", "--log-dir", "runs"], " runs --allow-random-weights"),
        (["--weights", "random.safetensors"], ""),
    ],
)
def test_the_command_that_comes_next_judges_what_was_run(argv: list[str], checker: str) -> None:
    """Else evidence of random weights ends in CANNOT JUDGE."""
    import accuracy_run_perf
    import check_accuracy_run_perf

    args = accuracy_run_perf.parse(argv)
    line = launch.closing_line(args, "benchmark.log", "performance: good", "check_accuracy_run_perf.py")
    command = line.partition("; next: ")[2]
    assert command == f"python check_accuracy_run_perf.py{checker}"
    judged = check_accuracy_run_perf.parse(shlex.split(command)[2:])
    assert judged.allow_random_weights == (args.weights == "random")
