"""The commands behind a page, such that they can be run again. Standard library only.

A run's record has paths by their last part; of the checker's own arguments, what lies outside the folder that it ran in
is shown so too. Where a file is then missing its folder, PATH/TO/ stands for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from common.log.reader import Run
from common.report.markdown import Markdown, command

ELSEWHERE = "PATH/TO/"
READ = ("--image", "--model", "--reference", "--weights")  # the flags of the runs that take a file or a folder to read
NO_FILES = ("demo", "random")  # what they take beside
LOG_DIR = "--log-dir"
USUAL_LOG_DIR = "logs"
CHECKER = "check_accuracy_run_perf.py"


def run_command(run: Run, left_out: Collection[str] = ()) -> Markdown:
    """A run's command line, but for these flags."""
    ranks = run.start.plan.ranks if run.start.plan else 1
    launcher = ["python"] if ranks == 1 else ["torchrun", "--nproc-per-node", str(ranks)]
    given = [
        flag + equals + _placed(name, value)
        for name, flag, equals, value in _arguments(run.start.argv)
        if name not in left_out
    ]
    return command([*launcher, run.script, *given])


def checker_command(argv: Sequence[str], runs: Iterable[Run]) -> Markdown:
    """The checker's command line over logs of these runs."""
    given = [value for run in runs for name, _, _, value in _arguments(run.start.argv) if name == LOG_DIR and value]
    shown = [flag + equals + _public(value, {USUAL_LOG_DIR, *given}) for _, flag, equals, value in _arguments(argv)]
    piped = ["cat", f"{ELSEWHERE}log.txt"] if "-" in argv else []
    line = command(["python", CHECKER, *shown])
    return Markdown(f"{command(piped)} | {line}") if piped else line


def _arguments(argv: Sequence[str]) -> Iterable[tuple[str, str, str, str]]:
    """Each argument as the flag that it belongs to, and its own flag, equals sign and value."""
    name = ""
    for argument in argv:
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            yield name, name, equals, value
        else:
            yield name, "", "", argument


def _placed(flag: str, value: str) -> str:
    """A recorded value; a file to read, of which only the last part is recorded, below ELSEWHERE."""
    is_file = flag in READ and value not in NO_FILES and "/" not in value and value.strip(".")
    return f"{ELSEWHERE}{value}" if is_file else value


def _public(value: str, log_dirs: Collection[str]) -> str:
    """An argument of the checker, without folders that are nobody's business: a path below the current folder as it is
    from there, a run's --log-dir and what is in it as the run's own command has it, any other by its last part.
    """
    if not value.startswith(("/", "~", "..")):
        return value
    path, here = Path(value), Path.cwd()
    if path.is_relative_to(here):
        return str(path.relative_to(here))
    if path.name in log_dirs:
        return path.name
    if path.parent.name in log_dirs:
        return f"{path.parent.name}/{path.name}"
    return f"{ELSEWHERE}{path.name}"
