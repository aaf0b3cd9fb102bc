"""The pages say what is so: their commands parse, what they name exists, their links lead somewhere, and both languages
agree.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast
from urllib.parse import unquote

import pytest
import yaml
from conftest import ROOT
from markdown_it import MarkdownIt
from markdown_it.token import Token

SCRIPTS = ("inference.py", "accuracy_run.py", "accuracy_run_perf.py", "check_accuracy_run_perf.py")
CHINESE = ".zh-CN.md"
LONGEST_README = 250  # lines
WIDEST = 120  # columns
OTHER_PROGRAMS = {"cat", "docker", "export", "pip", "source", "tee"}  # which the pages call, and no test runs
OTHER_FLAGS = {"--system-site-packages", "--shm-size", "--node-rank", "--mutants", "--rows", "--help"}
# What others say, or what is put together from parts.
OTHER_MESSAGES = {
    "error: externally-managed-environment",
    "operator torchvision::nms does not exist",
    "torch_npu ... finds 0 NPU devices",
}


@dataclass(frozen=True)
class Page:
    """A Markdown file, and what is in it."""

    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tokens(self) -> list[Token]:
        return MarkdownIt("commonmark").enable("table").parse(self.text)

    @cached_property
    def inline(self) -> list[Token]:
        return [child for token in self.tokens for child in token.children or ()]

    @property
    def twin(self) -> Page:
        """The same page in Chinese."""
        return Page(self.path.with_name(self.path.name.removesuffix(".md") + CHINESE))

    def blocks(self, language: str) -> list[str]:
        return [token.content for token in self.tokens if token.type == "fence" and token.info == language]

    @cached_property
    def names(self) -> set[str]:
        """Flags, keys, files, messages: what stands in backquotes."""
        return {" ".join(token.content.split()) for token in self.inline if token.type == "code_inline"}

    @cached_property
    def links(self) -> list[str]:
        return [unquote(str(token.attrs["href"])) for token in self.inline if token.type == "link_open"]

    @cached_property
    def anchors(self) -> list[str]:
        """Of its headings in their order, as GitHub makes them."""
        pairs = zip(self.tokens, self.tokens[1:], strict=False)
        return [anchor(text.content) for opening, text in pairs if opening.type == "heading_open"]

    @cached_property
    def shape(self) -> list[str]:
        """Headings by their level, tables by rows and cells, items of lists and blocks of code, in their order."""
        kept = ("heading_open", "tr_open", "th_open", "td_open", "list_item_open", "fence", "html_block")
        return [token.tag or token.type for token in self.tokens if token.type in kept]


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


README = Page(ROOT / "README.md")
PAGES = [README, *(Page(path) for path in sorted((ROOT / "docs").glob("*.md")) if not path.name.endswith(CHINESE))]
PAIRS = [page for english in PAGES for page in (english, english.twin)]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path.name)
each_file = pytest.mark.parametrize("page", PAIRS, ids=lambda page: page.path.name)


# ------------------------------------------------------------------------------------------------------- commands
def commands_in(block: str) -> list[list[str]]:
    """The words of each command of a shell block, of a pipe each one's, without comments, files and here-documents."""
    block = re.sub(r"<<'(\w+)'\n.*?^\1$", "", block.replace("\\\n", " "), flags=re.MULTILINE | re.DOTALL)
    commands: list[list[str]] = []
    for line in block.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        words = list(lexer)
        for place, word in enumerate(words):
            if word in ("|", "&&", ";"):
                commands.append(command)
                command = []
            elif word != ">" and words[place - 1 : place] != [">"]:
                command.append(word)
        commands.append(command)
    return [command for command in commands if command]


def parse(script: str, arguments: Sequence[str]) -> argparse.Namespace:
    """By the script's own parser. Raises SystemExit for what it refuses."""
    return cast(argparse.Namespace, importlib.import_module(script.removesuffix(".py")).parse(arguments))


def check(command: Sequence[str]) -> None:
    """Raise SystemExit or AssertionError for a command that can't be run as it stands."""
    program, *arguments = command
    if program == "torchrun":
        from torch.distributed.run import get_args_parser

        launched = get_args_parser().parse_args(arguments)
        parse(launched.training_script, launched.training_script_args)
    elif program in ("python", "python3") and arguments[0] in SCRIPTS:
        parse(arguments[0], arguments[1:])
    elif program in ("python", "python3"):
        assert arguments[0] in ("-m", "-") or (ROOT / arguments[0]).is_file(), command
    else:
        assert program in OTHER_PROGRAMS, command


@each_page
def test_every_command_parses(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a usage error sets a log aside
    for block in page.blocks("bash"):
        for command in commands_in(block):
            check(command)


@pytest.mark.parametrize(
    "line",
    [
        "python inference.py --no-such-flag",
        "python3 accuracy_run.py --samples -1 | tee accuracy_log.txt",
        "cat log.txt | python check_accuracy_run_perf.py - --require-device tpu",
        "torchrun --nproc-per-node 8 inference.py --output features.txt",
        "torchrun --no-such-flag inference.py",
        "python tests/no_such_file.py",
        "conda install torch",
    ],
)
def test_a_command_that_can_t_be_run_is_found(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((SystemExit, AssertionError)):
        for command in commands_in(line):
            check(command)


def test_the_commands_of_the_first_block_run_and_print_what_the_page_shows(tmp_path: Path) -> None:
    """In a copy, without its virtual environment; of the scripts the first, as the others take a minute."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in (*ROOT.glob("*.py"), ROOT / "common"):
        if path.is_dir():
            shutil.copytree(path, copy / path.name)
        elif path.is_file():
            shutil.copy(path, copy)
    making = ("python3 -m venv ", "source ", "pip install ")
    commands = [line for line in README.blocks("bash")[0].splitlines() if not line.startswith(making)]
    assert [command.split()[1] for command in commands] == list(SCRIPTS)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", commands[0]], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sample = README.blocks("text")[0].split("\n\n")[0].splitlines()
    assert sample[0] == f"$ {commands[0]}"
    assert [rounded(line) for line in done.stdout.splitlines() if rounded(line) in map(rounded, sample)] == [
        rounded(line) for line in sample[1:]
    ]


def rounded(line: str) -> str:
    """Without the digits that another processor may compute differently."""
    return re.sub(r"(\.\d\d)\d+", r"\1", line)


def test_the_constraints_are_the_versions_that_are_installed(tmp_path: Path) -> None:
    """The script that pins what an Ascend container brings."""
    found = re.search(r"^python - > constraints.txt <<'P'\n(.*?)^P$", README.text, re.MULTILINE | re.DOTALL)
    assert found
    done = subprocess.run([sys.executable, "-"], input=found[1], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    import torch

    assert f"torch=={torch.__version__}".partition("+")[0] in done.stdout
    assert all(re.fullmatch(r"(torch|torchvision|torch-npu)==\S+", line) for line in done.stdout.splitlines())


def test_install_commands_are_those_that_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text().replace(" --quiet", "")
    commands = [command for block in README.blocks("bash") for command in commands_in(block)]
    installing = [" ".join(command) for command in commands if command[0] == "pip" and "-c" not in command]
    assert installing == ["pip install -r requirements.txt", "pip install -r tests/requirements.txt"]
    for command in (*installing, "python -m pytest"):
        assert command in ci


def test_the_workflow_is_yaml_and_runs_the_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (workflow,) = [block for page in PAGES for block in page.blocks("yaml")]
    steps = [step["run"] for step in yaml.safe_load(workflow)["jobs"]["verify"]["steps"] if "run" in step]
    commands = [command for step in steps for command in commands_in(step)]
    assert [command[1] for command in commands if command[0] == "python"] == list(SCRIPTS)
    for command in commands:
        check(command)


# --------------------------------------------------------------------------------------------- what the pages name
def test_every_flag_is_one_of_the_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    for script in SCRIPTS:
        with pytest.raises(SystemExit):
            parse(script, ["--help"])
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) | OTHER_FLAGS
    named = {flag for page in PAGES for name in page.names for flag in re.findall(r"--[a-z][a-z-]+", name)}
    assert len(named) > 30
    assert named - known == set()


def test_every_file_of_the_project_is_there() -> None:
    names = {word for page in PAGES for name in page.names for word in name.split()}
    files = {name for name in names if name.startswith(("tests/", "docs/")) or name in SCRIPTS}
    assert len(files) > 6
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_every_message_that_troubles_is_one_that_the_code_has() -> None:
    texts = [text for path in production_files() for text in texts_in(path.read_text(encoding="utf-8"))]
    page = next(page for page in PAGES if page.path.name == "troubleshooting.md")
    first_cells = re.findall(r"^\| (.*?) \|", page.text, re.MULTILINE)
    messages = {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}
    assert len(messages) > 15
    assert messages >= OTHER_MESSAGES
    for message in messages - OTHER_MESSAGES:
        assert any(all(part in text for part in message.split("...")) for text in texts)


def production_files() -> list[Path]:
    return [*ROOT.glob("*.py"), *(ROOT / "common").rglob("*.py")]


def texts_in(code: str) -> Iterator[str]:
    """The texts of a piece of code; of an f-string all that is fixed."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.JoinedStr):
            yield "\0".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


# ----------------------------------------------------------------------------------------------- links and layout
def place_of(link: str, page: Page) -> tuple[Path, int | None]:
    """The file that a link leads to, and which of its headings. Raises ValueError for a heading that is not there."""
    target, _, heading = link.partition("#")
    path = (page.path.parent / target).resolve() if target else page.path
    return path, Page(path).anchors.index(heading) if heading else None


@each_file
def test_every_link_leads_to_a_file_and_a_heading(page: Page) -> None:
    assert page.links
    for link in page.links:
        assert ":" not in link, f"{link} leaves the project"
        path, _ = place_of(link, page)
        assert path.is_relative_to(ROOT), link
        assert path.is_file(), link


def test_every_page_is_linked_from_the_readme() -> None:
    assert {f"docs/{page.path.name}" for page in PAGES[1:]} <= set(README.links)


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("What the hash proves", "what-the-hash-proves"),
        ("Hubs, `caches` (2)", "hubs-caches-2"),
        ("图像（多卡）", "图像多卡"),
    ],
)
def test_anchors_are_github_s(heading: str, expected: str) -> None:
    assert anchor(heading) == expected


@each_file
def test_lines_are_short_except_in_tables(page: Page) -> None:
    lines = [line for line in page.text.splitlines() if not line.startswith("|")]
    assert [line for line in lines if len(line) > WIDEST] == []


@pytest.mark.parametrize("page", [README, README.twin], ids=lambda page: page.path.name)
def test_the_readme_is_a_front_door(page: Page) -> None:
    assert len(page.text.splitlines()) <= LONGEST_README


# ------------------------------------------------------------------------------------------------- both languages
def test_every_page_has_a_twin() -> None:
    found = [*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")]
    assert sorted(found) == sorted(page.path for page in PAIRS)
    assert len(found) > 10


@each_page
def test_both_languages_have_the_same_code_blocks(page: Page) -> None:
    assert [(token.info, token.content) for token in page.twin.tokens if token.type == "fence"] == [
        (token.info, token.content) for token in page.tokens if token.type == "fence"
    ]


@each_page
def test_both_languages_have_the_same_headings_tables_and_lists(page: Page) -> None:
    assert len(page.shape) > 10
    assert page.twin.shape == page.shape


@each_page
def test_both_languages_name_the_same_code(page: Page) -> None:
    assert page.twin.names == page.names


@each_page
def test_both_languages_link_to_the_same_places_each_in_its_own(page: Page) -> None:
    """But for pages that are in English alone."""
    twins = {each.path: each.twin.path for each in PAGES}
    places = [place_of(link, page) for link in page.links if link != page.twin.path.name]
    of_twin = [place_of(link, page.twin) for link in page.twin.links if link != page.path.name]
    assert of_twin == [(twins.get(path, path), heading) for path, heading in places]
