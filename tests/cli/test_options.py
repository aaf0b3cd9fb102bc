"""The command line that the scripts share: flags, usage errors, and how little `--help` imports."""

from __future__ import annotations

import argparse
import importlib
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Runner

from common.cli import options
from common.log import framing, writer

LOGS = {"inference.py": "inference.log", "accuracy_run.py": "accuracy.log", "accuracy_run_perf.py": "benchmark.log"}
SCRIPTS = [*LOGS, "check_accuracy_run_perf.py"]
IMPORT_TIMES = {"PYTHONPROFILEIMPORTTIME": "1"}
HEAVY = {"torch", "numpy", "PIL", "timm", "transformers", "modelscope", "huggingface_hub", "matplotlib", "tqdm"}


def imported(stderr: str) -> set[str]:
    """The modules that Python's import times on standard error name."""
    return {line.rpartition("|")[2].strip() for line in stderr.splitlines() if line.startswith("import time:")}


def only_error_line(stderr: str) -> str:
    (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    return line


# --------------------------------------------------------------------------------------------------------- values
@pytest.mark.parametrize("text", ["auto", "cpu", "npu", "npu:0", "npu:15", "cuda", "cuda:1"])
def test_a_device_name_is_taken(text: str) -> None:
    assert options.parse_device(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NPU",
        "gpu",
        "npu:",
        "npu:x",
        "npu:-1",
        "npu:1:2",
        "npu: 1",
        "npu1",
        "cpu:0",
        "auto:0",
        "cuda:٣",
        "cuda:²",
        "mps",
    ],
)
def test_any_other_device_name_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not auto, npu, npu:N, cuda, cuda:N or cpu"):
        options.parse_device(text)


@pytest.mark.parametrize(
    ("text", "fraction"), [("1.0", 0.01), ("1.0%", 0.01), ("1", 0.01), ("100", 1.0), ("0.5%", 0.005), ("1e-3", 1e-5)]
)
def test_a_percentage_is_a_fraction(text: str, fraction: float) -> None:
    assert options.percent(text) == pytest.approx(fraction, rel=1e-15)


REFUSED: list[tuple[Callable[[str], float], str]] = [
    *((options.percent, text) for text in ("", "%", "0", "0%", "-1", "nan", "inf", "inf%", "1%%", "1 percent", "1,0")),
    *((options.positive_float, text) for text in ("", "0", "-0.0", "-1", "nan", "inf", "1e999", "5s")),
    *((options.positive_int, text) for text in ("", "0", "-1", "1.5", "1e3", "nan", "0x10", "four")),
    *((options.nonnegative_int, text) for text in ("", "-1", "0.5", "four")),
]


@pytest.mark.parametrize(("parse", "text"), REFUSED)
def test_a_number_that_makes_no_sense_is_refused(parse: Callable[[str], float], text: str) -> None:
    with pytest.raises((argparse.ArgumentTypeError, ValueError)):
        parse(text)


def test_positive_numbers_are_taken() -> None:
    assert options.positive_int("16") == 16
    assert options.nonnegative_int("0") == 0
    assert options.positive_float("0.5") == 0.5


# --------------------------------------------------------------------------------------------------- usage errors
USAGE_ERRORS = [
    ("inference.py", ["--bogus"]),
    ("inference.py", ["photo.jpg"]),
    ("inference.py", ["--device", "gpu"]),
    ("inference.py", ["--devic", "cpu"]),
    ("inference.py", ["--dtype", "float64"]),
    ("inference.py", ["--topk", "0"]),
    ("inference.py", ["--batch-size", "1.5"]),
    ("inference.py", ["--output", "features.txt"]),
    ("inference.py", ["--image"]),
    ("accuracy_run.py", ["--hub", "github"]),
    ("accuracy_run.py", ["--seed", "x"]),
    ("accuracy_run.py", ["--samples", "-1"]),
    ("accuracy_run.py", ["--samples", "some"]),
    ("accuracy_run.py", ["--threshold", "nan"]),
    ("accuracy_run_perf.py", ["--batch-sizes", "1", "0"]),
    ("accuracy_run_perf.py", ["--batch-sizes", "1,0"]),
    ("accuracy_run_perf.py", ["--batch-sizes", "1,,4"]),
    ("accuracy_run_perf.py", ["--batch-sizes"]),
    ("accuracy_run_perf.py", ["--max-seconds", "inf"]),
    ("accuracy_run_perf.py", ["--iterations", "-5"]),
]


def parse_in_process(script: str, arguments: list[str]) -> int:
    """The exit code with which the script's parser leaves."""
    module = importlib.import_module(script.removesuffix(".py"))
    with pytest.raises(SystemExit) as left:
        module.parse(arguments)
    return int(left.value.code or 0)


@pytest.mark.parametrize(("script", "arguments"), USAGE_ERRORS)
def test_a_usage_error_is_one_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture, script: str, arguments: list[str]
) -> None:
    assert parse_in_process(script, [*arguments, f"--log-dir={tmp_path}"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1] == only_error_line(captured.err)


@pytest.mark.parametrize("script", LOGS)
def test_the_defaults_and_every_shared_flag_are_no_usage_error(script: str) -> None:
    arguments = "--model demo --weights random --hub modelscope --revision main --device npu:1 --dtype bfloat16 "
    arguments += "--image a.jpg photos/ --seed 7 --log-dir elsewhere --debug"
    module = importlib.import_module(script.removesuffix(".py"))
    assert module.parse([]).log_dir == Path("logs")
    args = module.parse(arguments.split())
    assert (args.device, args.dtype, args.seed) == ("npu:1", "bfloat16", 7)
    assert args.image == [Path("a.jpg"), Path("photos")]
    assert args.argv == arguments.split()


@pytest.mark.parametrize("where", ["--log-dir X", "--log-dir=X", "the default"])
@pytest.mark.parametrize("script", LOGS)
def test_a_usage_error_sets_the_earlier_log_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, where: str
) -> None:
    """Otherwise yesterday's evidence would answer for a run that never began."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ("logs" if where == "the default" else "X")
    folder.mkdir()
    (folder / LOGS[script]).write_text("yesterday's")
    assert parse_in_process(script, ["--bogus", *(where.split() if "X" in where else [])]) == 2
    assert [path.name for path in folder.iterdir()] == [LOGS[script].replace(".log", ".prev.log")]


def test_a_usage_error_leaves_the_logs_of_other_scripts_alone(tmp_path: Path) -> None:
    (tmp_path / "benchmark.log").write_text("yesterday's")
    assert parse_in_process("accuracy_run.py", ["--bogus", f"--log-dir={tmp_path}"]) == 2
    assert (tmp_path / "benchmark.log").exists()


def test_help_leaves_the_earlier_log_alone(tmp_path: Path) -> None:
    (tmp_path / "accuracy.log").write_text("yesterday's")
    assert parse_in_process("accuracy_run.py", [f"--log-dir={tmp_path}", "--help"]) == 0
    assert (tmp_path / "accuracy.log").exists()


@pytest.mark.parametrize("arguments", [["--log-dir"], ["--log-dir", "no/such/folder", "--bogus"], ["--log-dir="]])
def test_a_usage_error_without_a_usable_log_folder_is_still_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_in_process("inference.py", [*arguments, "--topk=0"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_usage_error_over_a_damaged_earlier_log_is_still_one(tmp_path: Path) -> None:
    (tmp_path / "inference.log").write_text('@record {"run":"a","seq":0,"ev')
    (tmp_path / "inference.prev.log").write_text("older")
    assert parse_in_process("inference.py", ["--bogus", f"--log-dir={tmp_path}"]) == 2


@pytest.mark.parametrize("argument", ["a\nerror: forged", '@record {"run":"a"}', "\x1b[2Kb", "\u2028c"])
@pytest.mark.parametrize("flag", [(), ("--output",), ("--device",), ("--hub",)])
def test_an_argument_can_forge_no_line_of_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture, flag: tuple[str, ...], argument: str
) -> None:
    assert parse_in_process("inference.py", [f"--log-dir={tmp_path}", *flag, argument]) == 2
    message = capsys.readouterr().err.partition("\nerror: ")[2].removesuffix("\n")
    assert message
    assert message.isprintable()
    assert framing.MARKER not in message


# ----------------------------------------------------------------------------------------------- what is imported
@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--bogus", 2)])
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_a_usage_error_import_nothing_heavy(run_script: Runner, script: str, argument: str, code: int) -> None:
    done = run_script(script, argument, env=IMPORT_TIMES)
    assert done.code == code
    assert {"argparse", "common.cli.options"} <= imported(done.stderr)
    assert not HEAVY & imported(done.stderr)


def test_the_checker_judges_without_torch_and_numpy(tmp_path: Path, run_script: Runner) -> None:
    with writer.RunLog(tmp_path / "accuracy.log", "accuracy_run.py", []) as log:
        log.line("no record but the first and the last")
    done = run_script("check_accuracy_run_perf.py", tmp_path / "accuracy.log", env=IMPORT_TIMES)
    assert done.verdict == "OVERALL: CANNOT JUDGE"
    assert {"argparse", "common.log.reader", "common.log.formulas"} <= imported(done.stderr)
    assert not HEAVY & imported(done.stderr)


def test_a_heavy_import_would_be_seen(tmp_path: Path, run_script: Runner) -> None:
    (tmp_path / "numpy.py").touch()
    (tmp_path / "script.py").write_text("import numpy")
    assert "numpy" in imported(run_script(tmp_path / "script.py", env=IMPORT_TIMES).stderr)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_examples_that_a_shell_takes_as_they_stand(capsys: pytest.CaptureFixture, script: str) -> None:
    module = importlib.import_module(script.removesuffix(".py"))
    assert parse_in_process(script, ["--help"]) == 0
    assert module.EXAMPLES.strip() in capsys.readouterr().out
    lines = [line.partition("|")[2] or line for line in module.EXAMPLES.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if script in line]
    assert commands
    for command in commands:
        module.parse(command[command.index(script) + 1 :])


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_fits_a_terminal(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert parse_in_process(script, ["--help"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 100] == []


# ---------------------------------------------------------------------------------------- a published port's defaults
@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lay a file of defaults where a published port has it."""
    monkeypatch.setattr(options, "DEFAULTS", tmp_path / "defaults.json")
    return lambda text: (tmp_path / "defaults.json").write_text(text) and None


PORT = '{"model": "org/name", "hub": "modelscope", "revision": "v1", "input_size": 448, "weights": "random"}'


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        ("", ("org/name", "modelscope", "v1", 448, "random")),
        ("--model org/name", ("org/name", "modelscope", "v1", 448, "random")),
        ("--hub huggingface --weights w.bin", ("org/name", "huggingface", "v1", 448, "w.bin")),
        ("--model demo", ("demo", None, None, None, None)),
    ],
)
@pytest.mark.parametrize("script", LOGS)
def test_a_ports_defaults_are_those_of_its_model(
    script: str, argv: str, wanted: tuple[object, ...], published: Callable[[str], None]
) -> None:
    published(PORT)
    args = importlib.import_module(script.removesuffix(".py")).parse(argv.split())
    assert (args.model, args.hub, args.revision, args.input_size, args.weights) == wanted
    assert sorted(args.shared) == sorted(argv.replace("--model org/name", "").split())


def test_a_checkout_has_no_such_file() -> None:
    assert not options.DEFAULTS.exists()
    import inference

    assert inference.parse([]).model.startswith("timm/vit_giant")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"hub": "modelscope"}',
        '{"model": 5}',
        '{"model": "a/b", "hub": "x"}',
        '{"model": "a/b", "input_size": 0}',
        '{"model": "a/b", "input_size": true}',
        '{"model": "a/b", "device": "npu"}',
        "\x00",
    ],
)
def test_wrong_defaults_are_an_error_in_one_line(
    text: str,
    published: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import inference

    monkeypatch.chdir(tmp_path)
    published(text)
    with pytest.raises(SystemExit) as leaving:
        inference.parse([])
    assert leaving.value.code == 2
    assert only_error_line(capsys.readouterr().err).startswith("error: defaults.json ")
