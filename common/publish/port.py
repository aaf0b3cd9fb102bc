"""What a published folder holds: pages from the records of the logs, the logs, and the code that made them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.cli.options import DEFAULTS
from common.errors import UserError
from common.log import schema
from common.log.events import Env, Model, RunStart
from common.log.lines import UnreadableRecordError, lines_of
from common.log.reader import Run, read_runs
from common.log.writer import ROOT, code_files, sha256_of
from common.publish import tree
from common.report import pages
from common.report.facts import Page, Port, Topic, belongs
from common.verdict import summary
from common.verdict.evidence import Judgement, Verdict
from common.verdict.files import as_json

LANGUAGES = {"zh": {"zh": "{}.md", "en": "{}.en.md"}, "en": {"en": "{}.md", "zh": "{}.zh-CN.md"}}
SCREENSHOT = "screenshot.png"
SIMULATOR = Path("tests/simulated_npu")
COPIED = ("LICENSE", "requirements.txt", ".markdownlint.json")
# Flags that a folder with the logs and the defaults of its own makes needless.
NEEDLESS = ("--log-dir", "--model", "--hub", "--revision", "--input-size")
CHECKED = {"accuracy.log", "benchmark.log"}  # what the checker reads where no log is named
TAKEN = ("common", "logs", "assets", "tests", ".", "..")  # folders of a port
VERSION = re.compile(r"[0-9][0-9A-Za-z.!_-]*", re.ASCII)
IGNORED = """# Weights and caches are no part of a port
*.safetensors
*.bin
*.pt
*.pth
*.ckpt
*.npy
*.onnx
*.om
*.new
*.parts/
__pycache__/
.venv/
.cache/
kernel_meta/
fusion_result.json
kept.txt
{more}# The logs are, whatever git ignores elsewhere; those that a new run set aside are not
!/logs/
!/logs/**/*.log
*.prev.log
"""
ATTRIBUTES = "# The bytes count: code_sha256 is of them\n* -text\n"


@dataclass(frozen=True)
class Sources:
    """The files behind a judgement, by what they are of: the logs, those beside them, and those to compare with."""

    logs: Sequence[str]
    beside: Sequence[Path]
    baseline: Sequence[str]
    compared: Sequence[str]


def publish(
    folder: Path,
    judgement: Judgement,
    inferences: Sequence[Run],
    sources: Sources,
    words: Sequence[str],
    language: str,
    template: Path | None,
) -> None:
    """Write the folder: after a PASS a port with its page, else what failed, and no page that could be taken for one.

    `words` are the flags of the checker that decide. Raises UserError for what can't be published.
    """
    pages.require_packages("--publish")
    from common.report import rendering

    require_one_encoder(judgement)
    inferences = [run for run in inferences if any(belongs(run, group) for group in judgement.groups)]
    code = code_files()
    require_same_code(code, [*judgement.runs, *inferences])
    passed = judgement.verdict is Verdict.PASS
    logs, named = placed_logs(sources, [*judgement.runs, *inferences], needed=passed)

    judgement = replace(judgement, argv=[*named, *words])
    page, plots = pages.draw(judgement, inferences, "assets/", "logs/", needless_flags(judgement))
    topic = next(iter(page.topics), None)
    contents = {**copied(), **logs, **plots, **papers_of(page), **(files_of(topic, language, page) if topic else {})}
    kind = "README" if passed else "README_FAIL_REASON"
    names = {key: name.format(kind) for key, name in LANGUAGES[language].items()}
    files = sorted({*contents, *names.values(), *(name for name in code if "/" not in name), "common/"})
    page = replace(page, port=Port(files, SCREENSHOT, defaults_of(topic) if topic else {}))
    texts = {key: pages.text_of(page, key, names, pages.REPORT if passed else pages.FAILURE) for key in names}
    contents |= {names[key]: text.encode() for key, text in texts.items()}
    if template and passed:
        contents[template.name.removesuffix(".j2")] = rendering.fill(template, page, texts).encode()
    tree.write(folder, {**contents, **code})


def require_one_encoder(judgement: Judgement) -> None:
    """Raise UserError for several, or for a PASS on half of the evidence."""
    if len(judgement.groups) > 1:
        titles = ", ".join(group.title for group in judgement.groups)
        raise UserError(f"--publish takes the logs of one encoder, dtype, numerics and device; these are of {titles}")
    if judgement.only and judgement.verdict is Verdict.PASS:
        raise UserError(f"--publish needs accuracy and performance: --only {judgement.only} judges one of them")


def copied() -> dict[str, bytes]:
    """What a port has as this project has it."""
    return {name: (ROOT / name).read_bytes() for name in COPIED if (ROOT / name).is_file()}


def papers_of(page: Page) -> dict[str, bytes]:
    """What is there after every verdict."""
    from common.publish import screenshot

    lines = screenshot.lines_of(page)
    return {
        SCREENSHOT: screenshot.draw(lines),
        "screenshot.txt": screenshot.as_text(lines),
        "verdict.json": _json(as_json(page.judgement, summary.rows_of(page.judgement))),
        ".gitattributes": ATTRIBUTES.encode(),
        ".gitignore": ignored(next(iter(page.topics), None)).encode(),
    }


def files_of(topic: Topic, language: str, page: Page) -> dict[str, bytes]:
    """What follows from the records of an encoder; the scores and the submission after a PASS."""
    from common.report.scoring import scoring_of

    found = {"constraints.txt": constraints(topic).encode(), DEFAULTS.name: _json(defaults_of(topic))}
    if "+simulated" in str(topic.env.host.packages.torch_npu):
        found |= simulator()
    if page.judgement.verdict is Verdict.PASS:
        found |= {"scoring.json": _json(scoring_of(topic))}
        found |= {"SUBMISSION.md": pages.submission_of(page, language).encode()}
    return found


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


# ------------------------------------------------------------------------------------------------- code and logs
def require_same_code(code: Mapping[str, bytes], runs: Iterable[Run]) -> None:
    """Raise UserError where other code than this made a log."""
    ours = sha256_of(code)
    for run in runs:
        for start in run.all(RunStart):
            if start.code_sha256 != ours:
                raise UserError(
                    f"{run.log} was made by other code (code_sha256 {start.code_sha256[:8]}) than would be published "
                    f"({ours[:8]}): run {run.script} again, or publish by the scripts that made it"
                )


def placed_logs(sources: Sources, runs: Sequence[Run], needed: bool = True) -> tuple[dict[str, bytes], list[str]]:
    """The logs' contents by their paths in the folder, and the checker's arguments that name them there.

    The runs are called by these names from now on. Unless all are `needed`, one that can't be read is left out. Raises
    UserError for one that is no file, or another one by now.
    """
    known = {run.id: run for run in runs}
    contents: dict[str, bytes] = {}

    def place(source: str | Path, below: str) -> str:
        if source == "-":
            raise UserError("--publish needs the logs as files: standard input can't be published")
        path = Path(source)
        try:
            content = path.read_bytes()
        except OSError as error:
            if not needed:
                return path.name
            raise UserError(f"{path} can't be published: {error.strerror}") from error
        runs_of = _runs_in(content)
        if runs_of and known.keys().isdisjoint(run.id for run in runs_of) and source in sources.beside:
            return path.name  # of another encoder
        name = _free_name(contents, below + (re.sub(r"[^A-Za-z0-9_.-]", "_", path.name) or "log"))
        contents[name] = content
        for run in runs_of:
            if known.get(run.id, run).count != run.count or _sha256(known.get(run.id, run)) != _sha256(run):
                raise UserError(f"{path} changed while it was published")
            if run.id in known:
                known[run.id].log = name.removeprefix("logs/")
        return name

    named = [place(source, "logs/") for source in sources.logs]
    for source in sources.beside:
        place(source, "logs/")
    baseline = [place(source, "logs/baseline/") for source in sources.baseline]
    compared = [place(source, "logs/compared/") for source in sources.compared]
    usual = {name.removeprefix("logs/") for name in named} == CHECKED
    words = [] if usual else named
    words += ["--baseline", *baseline] if baseline else []
    return contents, words + (["--compare", *compared] if compared else [])


def _runs_in(content: bytes) -> list[Run]:
    try:
        return list(read_runs(lines_of(io.BufferedReader(io.BytesIO(content)))))
    except UnreadableRecordError:
        return []  # which the verdict says


def _sha256(run: Run) -> str | None:
    return run.end.records_sha256 if run.end else None


def _free_name(taken: Iterable[str], name: str) -> str:
    path = Path(name)
    names = [name, *(f"{path.parent}/{path.stem}-{number}{path.suffix}" for number in range(2, len(list(taken)) + 3))]
    return next(each for each in names if each not in taken)


# ------------------------------------------------------------------------------------- what the records say of it
def defaults_of(topic: Topic) -> dict[str, str | int]:
    """What the scripts of the folder take where no flag says otherwise."""
    model = topic.model
    found: dict[str, str | int | None] = {"model": model.model, "hub": model.hub, "revision": model.revision}
    found["weights"] = "random" if model.weights_source == "random" else None
    found["input_size"] = model.asked_size
    return {key: value for key, value in found.items() if value is not None}


def needless_flags(judgement: Judgement) -> list[str]:
    """Those that the folder's defaults say, where there are any."""
    models = [run.one(Model) for group in judgement.groups for run in group.runs]
    random = any(model.weights_source == "random" for model in models)
    return [*NEEDLESS, *(["--weights"] if random else [])] if models else []


def constraints(topic: Topic) -> str:
    """The versions that were measured, for pip. Their local parts (+cpu) are left out: no index has them."""
    env: Env = topic.env
    versions = {name: str(version).partition("+")[0] for name, version in schema.encode(env.host.packages).items()}
    if env.is_simulated:
        versions.pop("torch_npu")
    pins = [f"{name.replace('_', '-')}=={each}" for name, each in versions.items() if VERSION.fullmatch(each)]
    return "\n".join(["# The versions that were measured", *pins, ""])


def ignored(topic: Topic | None) -> str:
    """The .gitignore, with the folder of weights from no hub, which lies beside the scripts."""
    name = topic.model.model if topic and topic.model.model != "demo" else ""
    own = re.fullmatch(r"[\w.-]+", name, re.ASCII) and name not in TAKEN
    return IGNORED.format(more=f"/{name}/\n" if own else "")


def simulator() -> dict[str, bytes]:
    """The simulated NPU, without which what was run on it can't be run again."""
    found = [path for path in sorted((ROOT / SIMULATOR).rglob("*")) if "__pycache__" not in path.parts]
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in found if path.is_file()}
