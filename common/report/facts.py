"""What the templates are filled from, beside the events themselves. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.log import tasks
from common.log.conclusions import UNEXPLAINED, Words
from common.log.events import (
    Accuracy,
    Cause,
    Cost,
    Env,
    Fallback,
    Inference,
    Kind,
    Layer,
    Model,
    Numerics,
    Perf,
    Prediction,
    Ranks,
    RunStart,
    Sample,
    Speedup,
    Task,
)
from common.log.figures import bound
from common.log.formulas import FORWARD, GATED_METRICS, size_of
from common.log.reader import Run, UnjudgeableError
from common.log.samples import each_sample
from common.report.commands import ELSEWHERE, checker_command, run_command
from common.report.hardware import words_for
from common.report.markdown import Markdown
from common.verdict.evidence import Check, Group, Judgement, Verdict
from common.verdict.remarks import caveats_of
from common.verdict.summary import Row
from common.verdict.task import require_whole

PLAIN = re.compile(r"[A-Za-z0-9][\w. -]{0,60}", re.ASCII)  # a name that can be a tag
HASH_TAG = re.compile(r"[A-Za-z0-9][\w.-]{0,60}", re.ASCII)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
MODEL_PAGES = {"modelscope": "https://www.modelscope.cn/models/", "huggingface": "https://huggingface.co/"}


@dataclass(frozen=True)
class WorstError:
    """The largest of one gated metric, over outputs, references and samples, and the bound that it is held to."""

    metric: str
    value: float | None
    bound: str
    of: Accuracy


@dataclass(frozen=True)
class Topic:
    """What the sections are about: one group, the inference runs that belong to it, its plots' files by their names,
    and the checker's command line. `left_out` are flags that the folder of the pages makes needless, `logs` where in it
    the logs are.
    """

    group: Group
    inferences: Sequence[Run]
    plots: Mapping[str, str]
    argv: Sequence[str]
    left_out: Sequence[str] = ()
    logs: str = ""

    @property
    def runs(self) -> list[Run]:
        return [*self.inferences, *self.group.runs]

    @property
    def model(self) -> Model:
        return self.group.runs[0].one(Model)

    @property
    def env(self) -> Env:
        return self.group.runs[0].one(Env)

    @property
    def hardware(self) -> tuple[str, ...]:
        """What else people call a real NPU; nothing of another device."""
        return words_for(self.env.device_name) if self.env.kind == "npu" and not self.env.is_simulated else ()

    @property
    def called(self) -> list[str]:
        """All names of the device, that of torch first."""
        return [self.env.device_name, *self.hardware]

    @property
    def weights_url(self) -> Markdown | None:
        """The page of the weights on the hub that they are from; None where they are from elsewhere."""
        hub, model = self.model.hub, self.model.model
        from_hub = self.model.weights_source == model and HUB_ID.fullmatch(model) is not None
        return Markdown(MODEL_PAGES[hub] + model) if hub and from_hub else None

    @property
    def weights_are(self) -> str:
        """Which weights another machine lacks: a file, a folder, or nothing of what a hub or a package brings."""
        source, model = self.model.weights_source, self.model.model
        if source in ("demo", "random") or (source == model and HUB_ID.fullmatch(model)):
            return "to be had"
        return "a folder" if source == model else "a file"

    @property
    def fallbacks(self) -> list[str]:
        """The operators that ran on the CPU, in any run."""
        found = (operator for run in self.runs for each in run.all(Fallback) for operator in each.operators)
        return list(dict.fromkeys(found))

    @property
    def numerics(self) -> Numerics:
        return self.group.runs[0].one(Numerics)

    @property
    def cost(self) -> Cost | None:
        """Counted by a perf run."""
        return next((run.one(Model).cost for run in self.group.of("perf")), None)

    @property
    def outputs(self) -> list[Inference]:
        return [inference for run in self.inferences for inference in run.all(Inference)]

    @property
    def samples(self) -> list[Sample]:
        return [sample for run in self.group.of("accuracy") for sample in run.all(Sample)]

    @property
    def embeddings(self) -> list[Sample]:
        """The embeddings of all images, of each run against its first reference."""
        found = []
        for run in self.group.of("accuracy"):
            samples = [sample for sample in run.all(Sample) if sample.output == "embedding"]
            found += [sample for sample in samples if sample.reference == samples[0].reference]
        return found

    @property
    def top1_match(self) -> bool | None:
        """Whether the largest element is the same on both sides for every image; None where none was compared."""
        same = [_top1_match(sample) for sample in self.embeddings]
        return all(same) if same else None

    @property
    def top5_match(self) -> bool | None:
        """Whether the five largest are, in any order."""
        same = [sample.metrics.top5_match == 1 for sample in self.embeddings]
        return all(same) if same else None

    def path_of(self, run: Run) -> str:
        """Where a run's log is, from the pages."""
        return self.logs + run.log

    @property
    def tasks(self) -> list[Task]:
        return [task for run in self.group.of("accuracy") for task in run.all(Task)]

    @property
    def explained(self) -> list[Run]:
        """The accuracy runs that looked for the cause of their error."""
        return [
            run for run in self.group.of("accuracy") if any(isinstance(event, (Cause, Layer)) for event in run.events)
        ]

    def shape_of(self, output: str) -> list[int] | None:
        """Of one image's output; an inference has the embedding alone."""
        found = [sample.shape for sample in self.samples if sample.output == output]
        inferred = [inference.output_shape for inference in self.outputs if output == "embedding"]
        return next(iter([*found, *inferred]), None)

    @property
    def commands(self) -> list[Markdown]:
        """What was run."""
        return [run_command(run, self.left_out) for run in self.runs]

    @property
    def judged_by(self) -> Markdown:
        """The checker's command."""
        return checker_command(self.argv, self.runs)

    @property
    def elsewhere(self) -> Markdown | None:
        """What stands for folders that are not named, where a command has it."""
        return Markdown(ELSEWHERE) if any(ELSEWHERE in line for line in (*self.commands, self.judged_by)) else None

    @property
    def errors(self) -> list[WorstError]:
        """The worst of each metric that decides."""
        found = [event for run in self.group.of("accuracy") for event in run.all(Accuracy)]
        worst = []
        for metric in GATED_METRICS if found else ():
            of = max(found, key=lambda event: size_of(getattr(event.worst, metric)))
            judged = [each for each in self.group.checks if each.name.endswith(f"{of.output} {metric}")]
            limit = judged[0].bound if judged else f"<= {bound(of.threshold)}"
            worst.append(WorstError(metric, getattr(of.worst, metric), limit, of))
        return worst

    @property
    def alone(self) -> Perf | None:
        return self.group.alone

    @property
    def best(self) -> Perf | None:
        return self.group.best

    @property
    def together(self) -> Ranks | None:
        """The batch size at which several ranks reached most."""
        rows = [row for run in self.group.of("perf")[-1:] for row in run.all(Ranks) if row.scaling]
        return max(rows, key=lambda row: row.scaling.total_throughput_ips if row.scaling else 0, default=None)

    @property
    def speedup(self) -> Speedup | None:
        return self.group.speedup

    @property
    def doubts(self) -> list[Words]:
        """The remarks that are no caveats, as they were found."""
        caveats = set(caveats_of(self.group.runs[0]))
        return [remark for remark in self.group.remarks if remark not in caveats]


def _top1_match(sample: Sample) -> bool:
    if sample.top5 is None:
        return sample.metrics.top1_gap == 0
    r, y = sample.top5.reference_top5, sample.top5.device_top5
    return [entry.index for entry in r[:1]] == [entry.index for entry in y[:1]]


def _tags_of(topic: Topic) -> list[str]:
    env = topic.env
    if env.is_simulated:
        return ["simulation"]
    if env.kind != "npu":
        return [env.kind.upper()]
    return ["NPU", "Ascend", env.device_name, *topic.hardware]


def changes_of(run: Run) -> list[tuple[str, Words]]:
    """The images whose prediction changed on the task, and to what. Raises UnjudgeableError for damaged predictions."""
    task, predictions = run.one(Task), run.all(Prediction)
    require_whole(task, predictions)
    return [(name, tasks.describe_change(image, task)) for name, image in tasks.changes_of(predictions)]


def causes_of(run: Run) -> list[Cause]:
    """The causes with a name, the best first, then by how much they explain or were confirmed to."""
    named = [cause for cause in run.all(Cause) if cause.cause != UNEXPLAINED]
    return sorted(named, key=lambda cause: (not cause.best, -max(cause.explained or 0, cause.confirmed or 0)))


def explained_samples(run: Run) -> list[Sample]:
    """Of the image whose error was explained, the one that errs most against the first reference: its outputs.

    Raises UnjudgeableError without samples.
    """
    samples = list(each_sample(run))
    if not samples:
        raise UnjudgeableError("no sample records")
    samples = [sample for sample in samples if sample.reference == samples[0].reference]
    worst = max(samples, key=lambda sample: size_of(sample.metrics.relative_l2))
    return [sample for sample in samples if sample.image_sha256 == worst.image_sha256]


def kinds_of(run: Run) -> list[list[Kind]]:
    """The kinds of each batch size: the whole forward, then the others by their time. Raises UnjudgeableError where the
    whole is missing.
    """
    found: dict[int, list[Kind]] = {}
    for kind in run.all(Kind):
        found.setdefault(kind.batch_size, []).append(kind)
    for kinds in found.values():
        kinds.sort(key=lambda kind: (kind.name != FORWARD, -kind.share))
        if kinds[0].name != FORWARD:
            raise UnjudgeableError("kind records: no whole forward")
    return [found[size] for size in sorted(found)]


def belongs(run: Run, group: Group) -> bool:
    """Whether a whole inference run is of the group's encoder and device. It may not have hashed the weights."""
    if run.problems:
        return False
    try:
        model, env = run.one(Model), run.one(Env)
    except UnjudgeableError:
        return False
    wanted = group.runs[0].one(Model)
    keys = ("model", "architecture", "weights_source", "dtype", "numerics")
    same = all(getattr(model, key) == getattr(wanted, key) for key in keys)
    same &= env.device == group.runs[0].one(Env).device
    return same and model.weights_sha256 in (None, wanted.weights_sha256)


@dataclass(frozen=True)
class Port:
    """What a folder to publish has beside a page: its files, the picture of the verdict's lines, and what its scripts
    take where no flag says otherwise.
    """

    files: Sequence[str]
    screenshot: str
    defaults: Mapping[str, str | int]


@dataclass(frozen=True)
class Entry:
    """A row of the table of several encoders, and the page that says more: its names by language; none of a log that
    can't be judged.
    """

    row: Row
    names: Mapping[str, str] | None = None

    def link(self, language: str) -> Markdown | None:
        return Markdown(self.names[language]) if self.names else None


@dataclass(frozen=True)
class Page:
    """A judgement, and what there is to say of each of its groups. `lines` are those of the verdict as a terminal shows
    them, `twin` is the file of the same page in the other language, `port` what a folder to publish has beside,
    `left_out` the flags that it makes needless.
    """

    judgement: Judgement
    topics: Sequence[Topic]
    lines: Sequence[str] = ()
    twin: str = ""
    port: Port | None = None
    left_out: Sequence[str] = ()
    summary: Sequence[Entry] = ()

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(topic.model.model for topic in self.topics))

    @property
    def devices(self) -> list[Topic]:
        """One topic of each device by its name."""
        envs = [(topic.env, topic) for topic in self.topics]
        return list({(env.kind, env.device_name, env.is_simulated): topic for env, topic in envs}.values())

    @property
    def tags(self) -> list[str]:
        """By which a page is found: the NPU and its names only for what ran on one, not for a simulation."""
        names = [name for topic in self.topics for name in _tags_of(topic)]
        libraries = [run.one(Model).library for topic in self.topics for run in topic.group.runs]
        return list(dict.fromkeys(name for name in (*names, *libraries) if PLAIN.fullmatch(name)))

    @property
    def hash_tags(self) -> Markdown:
        """The tags, and the architectures, as a page has them in its text."""
        names = [*self.tags, *(topic.model.architecture for topic in self.topics)]
        return Markdown(" ".join(f"#{name}" for name in dict.fromkeys(names) if HASH_TAG.fullmatch(name)))

    @property
    def caveats(self) -> list[Words]:
        """What the evidence does not prove, the gravest first, and what was not judged."""
        found = (remark for topic in self.topics for remark in reversed(list(caveats_of(topic.group.runs[0]))))
        return list(dict.fromkeys([*found, *self.judgement.limits]))

    @property
    def commands(self) -> list[Markdown]:
        """What was run, those runs too that can't be judged."""
        return [run_command(run, self.left_out) for run in self.runs if run.all(RunStart)]

    @property
    def judged_by(self) -> Markdown:
        """The checker's command."""
        return checker_command(self.judgement.argv, [run for run in self.runs if run.all(RunStart)])

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.judgement.checks if check.verdict is not Verdict.PASS]

    @property
    def runs(self) -> list[Run]:
        """All that were read, what was found beside them, and what they were compared with."""
        found = [*self.judgement.runs, *(run for topic in self.topics for run in topic.inferences)]
        found += [run for topic in self.topics for each in topic.group.comparisons for run in each.runs]
        return list({id(run): run for run in found}.values())
