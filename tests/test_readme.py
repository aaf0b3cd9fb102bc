"""The README says what the scripts do: its usage blocks are their --help, its commands exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
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
