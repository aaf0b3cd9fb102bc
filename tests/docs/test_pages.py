"""The READMEs say what the scripts do: their usage blocks are the scripts' --help, their commands exist, both agree."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT

PAGES = ("README.md", "README.zh-CN.md")
README, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in PAGES)
SCRIPTS = ("inference.py", "accuracy_run.py", "accuracy_run_perf.py", "check_accuracy_run_perf.py")


def help_text(script: str) -> str:
    """What `--help` prints in a terminal of 100 columns."""
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, ROOT / script, "--help"], env=environment, capture_output=True, text=True, check=True
    )
    return "\n".join(line.rstrip() for line in done.stdout.rstrip().splitlines())


@pytest.mark.parametrize("script", SCRIPTS)
def test_usage_is_the_scripts_own_help(script: str) -> None:
    found = re.search(rf"### {re.escape(script)}\n\n```text\n(.*?)\n```", README, re.DOTALL)
    assert found, f"no usage of {script}"
    assert found[1] == help_text(script)


def test_every_flag_in_a_command_exists() -> None:
    known = {flag for script in SCRIPTS for flag in re.findall(r"--[a-z][a-z-]+", help_text(script))}
    commands = re.findall(r"^python3? (\w+\.py.*)$", README, re.MULTILINE)
    assert len(commands) > 15
    for command in commands:
        assert set(re.findall(r"--[a-z][a-z-]+", command)) <= known, command


def test_install_commands_are_those_that_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    for command in ("-r requirements.txt", "-r tests/requirements.txt", "python -m pytest"):
        assert command in README
        assert command in ci


def test_every_event_of_the_log_is_described() -> None:
    source = "".join(path.read_text() for path in ROOT.glob("*.py"))
    events = set(re.findall(r'\.record\(\s*"(\w+)"', source))
    assert len(events) > 12
    for event in events:
        assert f"| `{event}` |" in README, event


def code_blocks(page: str) -> list[str]:
    return re.findall(r"^```.*?^```$", page, re.MULTILINE | re.DOTALL)


def prose(page: str) -> str:
    return re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)


def test_both_languages_have_the_same_commands_and_usage() -> None:
    assert len(code_blocks(README)) > 12
    assert code_blocks(CHINESE) == code_blocks(README)


def test_both_languages_have_the_same_sections_and_tables() -> None:
    """In the same order: headings by their level, tables by their rows and columns."""
    shapes = [
        [line.split(" ")[0] if line.startswith("#") else line.replace(r"\|", "").count("|") for line in lines]
        for lines in (
            [line for line in prose(page).splitlines() if line.startswith(("#", "|"))] for page in (README, CHINESE)
        )
    ]
    assert len(shapes[0]) > 60
    assert shapes[0] == shapes[1]


def test_both_languages_name_the_same_code() -> None:
    """Flags, keys, files and variables: what stands in backquotes."""
    named = [{" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))} for page in (README, CHINESE)]
    assert len(named[0]) > 150
    assert named[0] == named[1]


def test_the_workflow_is_yaml_and_runs_the_scripts() -> None:
    found = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert found
    steps = yaml.safe_load(found[1])["jobs"]["verify"]["steps"]
    commands = [step["run"] for step in steps if step.get("run", "").startswith("python ")]
    assert [command.split()[1] for command in commands] == list(SCRIPTS)
    for command in commands:
        script, *arguments = command.split()[1:]
        flags = {argument for argument in arguments if argument.startswith("--")}
        assert flags <= set(re.findall(r"--[a-z][a-z-]+", help_text(script))), command
