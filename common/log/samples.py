"""The samples of an accuracy run, whether each has a record of its own or many share one. Standard library only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from common.log.events import MEASURED, MetricColumns, Sample, Samples, WorstToken, WorstTokens
from common.log.formulas import complete
from common.log.reader import Run, UnjudgeableError
from common.log.schema import Integers, Numbers

MOST_SINGLE = 1000  # images with a `sample` record each
MOST_TOGETHER = 1000  # in a `samples` record
DIGITS = 16  # of an image's hash


def each_sample(run: Run, output: str | None = None, reference: str | None = None) -> Iterator[Sample]:
    """The samples of a run, one after another, all or those of an output and against a reference.

    Of those that share a record the image is known by its place alone. Raises UnjudgeableError for lists of different
    lengths, and for a place that is not behind the images before.
    """
    before: Counter[tuple[str, str]] = Counter()
    for event in run.events:
        if not isinstance(event, (Sample, Samples)):
            continue
        if output in (None, event.output) and reference in (None, event.reference):
            found = [event] if isinstance(event, Sample) else apart(event)
            if isinstance(event, Samples) and event.first != before[event.output, event.reference]:
                raise UnjudgeableError("samples record: its first image is not behind those before")
            for sample in found:
                before[event.output, event.reference] += 1
                yield sample


def images_of(run: Run) -> set[str]:
    """The different images that a run compared, by the digits that every record has of their hashes."""
    found: set[str] = set()
    for event in run.events:
        if isinstance(event, Sample):
            found.add(event.image_sha256[:DIGITS])
        elif isinstance(event, Samples):
            found.update(event.digests[at : at + DIGITS] for at in range(0, len(event.digests), DIGITS))
    return found


def count_of(run: Run) -> int:
    """How many images a run compared with its first reference, those that are the same counted each time."""
    found = [event for event in run.events if isinstance(event, (Sample, Samples))]
    first = [(event.output, event.reference) for event in found[:1]]
    alike = [event for event in found if (event.output, event.reference) in first]
    return sum(1 if isinstance(event, Sample) else len(event.digests) // DIGITS for event in alike)


def together(samples: Sequence[Sample], first: int) -> Samples:
    """One record for the samples of one output against one reference; `first` is the place of the first of them."""
    one = samples[0]
    columns = {name: Numbers(getattr(sample.metrics, name) for sample in samples) for name in MEASURED}
    nonfinites = [sample.nonfinite for sample in samples]
    worst = [sample.worst for sample in samples if sample.worst]
    return Samples(
        first=first,
        digests="".join(sample.image_sha256[:DIGITS] for sample in samples),
        reference=one.reference,
        output=one.output,
        device=one.device,
        dtype=one.dtype,
        shape=one.shape,
        metrics=MetricColumns(**columns),
        nonfinites=Integers(nonfinites) if any(nonfinites) else None,
        worst=_columns_of(worst) if worst else None,
    )


def _columns_of(worst: Iterable[WorstToken]) -> WorstTokens:
    tokens, errors = zip(*((each.worst_token, each.worst_token_relative_l2) for each in worst), strict=True)
    return WorstTokens(worst_tokens=Integers(tokens), worst_token_relative_l2=Numbers(errors))


def apart(event: Samples) -> Iterator[Sample]:
    """The samples that share a record. Raises UnjudgeableError for lists of different lengths."""
    count = len(event.digests) // DIGITS
    columns = {name: getattr(event.metrics, name) for name in MEASURED}
    nonfinites = Integers(count * [0]) if event.nonfinites is None else event.nonfinites
    worst = event.worst
    of_tokens = [] if worst is None else [worst.worst_tokens, worst.worst_token_relative_l2]
    if {*map(len, (*columns.values(), nonfinites, *of_tokens)), len(event.digests) / DIGITS} != {count}:
        raise UnjudgeableError("samples record: its lists are of different lengths")
    for at in range(count):
        token = None
        if worst is not None:
            error = _known(worst.worst_token_relative_l2[at])
            token = WorstToken(worst_token=worst.worst_tokens[at], worst_token_relative_l2=error)
        yield Sample(
            image=f"image {event.first + at + 1}",
            image_sha256=event.digests[at * DIGITS : (at + 1) * DIGITS],
            reference=event.reference,
            output=event.output,
            device=event.device,
            dtype=event.dtype,
            shape=event.shape,
            metrics=complete({name: _known(column[at]) for name, column in columns.items()}),
            nonfinite=nonfinites[at],
            worst=token,
        )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
