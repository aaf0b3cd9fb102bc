"""What the templates are filled from, beside the events themselves. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.log.conclusions import Words
from common.log.events import Cause, Cost, Env, Inference, Layer, Model, Numerics, Sample
from common.log.reader import Run, UnjudgeableError
from common.report.markdown import Markdown, command
from common.verdict.evidence import Check, Group, Judgement, Verdict
from common.verdict.remarks import caveats_of

SHORT = 8  # digits of a hash


@dataclass(frozen=True)
class Topic:
    """What the sections are about: one group, the inference runs that belong to it, its plots' files by their names."""

    group: Group
    inferences: Sequence[Run]
    plots: Mapping[str, str]

    @property
    def runs(self) -> list[Run]:
        return [*self.inferences, *self.group.runs]

    @property
    def model(self) -> Model:
        return self.group.runs[0].one(Model)

    @property
    def weights(self) -> str:
        """The start of their hash: it tells groups apart."""
        return str(self.model.weights_sha256)[:SHORT]

    @property
    def env(self) -> Env:
        return self.group.runs[0].one(Env)

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
        """What was run, and what judges it."""
        logs = list(dict.fromkeys(run.log for run in self.group.runs if run.log))
        return [*map(_command_of, self.runs), command(["python", "check_accuracy_run_perf.py", *logs])]


def _command_of(run: Run) -> Markdown:
    """A run's recorded arguments, with the model and the device named where they were defaults."""
    given = {argument.partition("=")[0] for argument in run.start.argv}
    model = [] if "--model" in given else ["--model", run.one(Model).model]
    device = [] if "--device" in given else ["--device", run.one(Env).device]
    ranks = run.start.plan.ranks if run.start.plan else 1
    launcher = ["python"] if ranks == 1 else ["torchrun", "--nproc-per-node", str(ranks)]
    return command([*launcher, run.script, *model, *device, *run.start.argv])


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
class Page:
    """A judgement, and what there is to say of each of its groups."""

    judgement: Judgement
    topics: Sequence[Topic]

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(topic.model.model for topic in self.topics))

    @property
    def devices(self) -> list[Env]:
        """One environment of each device by its name."""
        envs = [topic.env for topic in self.topics]
        return list({(env.kind, env.device_name, env.is_simulated): env for env in envs}.values())

    @property
    def caveats(self) -> list[Words]:
        """What the evidence does not prove, the gravest first."""
        known = {caveat for topic in self.topics for caveat in caveats_of(topic.group.runs[0])}
        return [remark for remark in self._remarks if remark in known]

    @property
    def doubts(self) -> list[Words]:
        known = self.caveats
        return [remark for remark in self._remarks if remark not in known]

    @property
    def _remarks(self) -> list[Words]:
        return list(dict.fromkeys(remark for topic in self.topics for remark in reversed(topic.group.remarks)))

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.judgement.checks if check.verdict is not Verdict.PASS]

    @property
    def runs(self) -> list[Run]:
        """All that were read, and what was found beside them."""
        found = [*self.judgement.runs, *(run for topic in self.topics for run in topic.inferences)]
        return list({id(run): run for run in found}.values())
