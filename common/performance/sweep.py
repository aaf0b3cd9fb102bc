"""The sweep over batch sizes: three passes each, interleaved in rounds, and every timed output verified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn
from tqdm import tqdm

from common.accuracy import metrics
from common.device import devices
from common.device.devices import Outputs
from common.device.ranks import Rank
from common.encoder.base import Encoder
from common.errors import first_line
from common.images.decoding import Sample
from common.log import formulas
from common.log.events import COMPILED, EAGER, Case, Figures, Perf, Share, Timed, Windows
from common.performance import compilers, timing
from common.performance.limit import Meter, Work
from common.performance.timing import Budget, Pass, Stopwatch, Warmup
from common.session import Session


@dataclass(frozen=True)
class Subject:
    """What is timed: an encoder on its device in a mode, with the images that it is given.

    `pixel_values` [N, 3, H, W] are those of `samples`, on the device; `expected` the outputs of each image alone, on
    the CPU, by the eager encoder. N is the largest batch size and ROTATION - 1: the batches of a size start an image
    apart. `backend` compiles the encoder, for so many `shapes` with those of the other backends.
    """

    encoder: nn.Module
    preprocess: Callable[[Image], Tensor]
    samples: Sequence[Sample]
    pixel_values: Tensor
    expected: Sequence[Outputs]
    backend: str | None = None
    shapes: int = 0

    def in_modes(self, backends: Sequence[str], batch_sizes: int) -> list[Subject]:
        """The same eager, and as each backend makes it for so many batch sizes."""
        shapes = len(backends) * batch_sizes
        return [self, *(replace(self, backend=name, shapes=shapes) for name in backends)]

    @property
    def mode(self) -> str:
        return EAGER if self.backend is None else COMPILED + self.backend

    @cached_property
    def module(self) -> nn.Module:
        """What is called. It is first asked for where a backend that fails is noted."""
        return self.encoder if self.backend is None else compilers.compiled(self.encoder, self.backend, self.shapes)

    @cached_property
    def first_sha256(self) -> str:
        """Of the first image, by which every batch size is recognised."""
        return self.samples[0].sha256()

    def forward(self, batch_size: int, turn: int) -> Outputs:
        return devices.forward(self.module, self.pixel_values[turn : turn + batch_size])

    def forward_from_files(self, batch_size: int, turn: int) -> Outputs:
        """Decode, preprocess, copy in, forward, and copy the embedding out."""
        decoded = [sample.load() for sample in self.samples[turn : turn + batch_size]]
        pixel_values = torch.stack([self.preprocess(image) for image in decoded])
        embedding, hidden_state = devices.forward(self.module, pixel_values.to(self.pixel_values))
        return embedding.cpu(), hidden_state

    def passes(self, batch_size: int) -> tuple[Pass, ...]:
        device, fleeting = self.pixel_values.device, self.backend is not None
        return (
            Pass("latency", lambda turn: self.forward(batch_size, turn), device, fleeting=fleeting),
            Pass("throughput", lambda turn: self.forward(batch_size, turn), device, fleeting=fleeting),
            Pass("end_to_end", lambda turn: self.forward_from_files(batch_size, turn), device, fleeting=fleeting),
        )


@dataclass
class Measurement:
    """One batch size in one mode and what was measured of it. Out of memory is a result too: `status` says so."""

    subject: Subject
    batch_size: int
    passes: tuple[Pass, ...]
    status: str = "ok"
    reason: str | None = None
    warmup: Warmup | None = None
    peak_memory_mb: float | None = None
    errors: list[float | None] = field(default_factory=list)
    nonfinite: int = 0
    embedding: Tensor | None = None
    alone: Pass | None = None

    @property
    def case(self) -> Case:
        return Case(self.subject.mode, self.batch_size)

    @classmethod
    def of(cls, subject: Subject, batch_size: int) -> Measurement:
        return cls(subject, batch_size, subject.passes(batch_size))

    def attempt(self, step: Callable[..., None], *arguments: Any) -> None:
        """Take a step. Where memory does not suffice this batch size ends, and the sweep goes on; so it does where a
        backend fails.
        """
        if self.status != "ok":
            return
        device = self.subject.pixel_values.device
        try:
            step(*arguments)
        except Exception as error:
            if self.subject.backend is not None:  # a device that is lost by it, the eager steps will tell
                self.status = "oom" if devices.is_out_of_memory(error) else "error"
                self.reason = compilers.why(error)
            elif isinstance(error, RuntimeError):
                self.status, self.reason = failure_of(error, device), first_line(error)
            else:
                raise
        if self.status != "ok":
            devices.empty_cache(device)

    def warm_up(self, budget: Budget) -> None:
        latency, throughput, _ = self.passes
        devices.reset_peak_memory(latency.device)
        self.warmup = timing.warm_up(latency.call, latency.device, budget)
        self.peak_memory_mb = devices.peak_memory_mb(latency.device)
        throughput.calls = budget.window(self.warmup.latency_ms)

    def measure(self, timed: Pass, budget: Budget, round_index: int) -> None:
        self.verify(timed.run(budget, round_index))

    def measure_alone(self, budget: Budget) -> None:
        """The throughput of this rank while the others wait."""
        _, throughput, _ = self.passes
        self.alone = replace(throughput, samples_ms=[], issued_ms=[])
        self.alone.run_all(budget)

    def verify(self, timed: dict[int, Outputs]) -> None:
        """What was timed is what the encoder gives: the outputs of batches, by the turn and so the place of their first
        image, against those of the images alone.
        """
        pairs = [
            (self.subject.expected[turn + place][output][0], image)
            for turn, outputs in timed.items()
            for output, batch in enumerate(outputs)
            for place, image in enumerate(batch.cpu())
        ]
        if not pairs:
            return
        expected, found = zip(*pairs, strict=True)
        self.errors.append(metrics.worst_relative_l2(expected, found))
        self.nonfinite += sum(map(metrics.count_nonfinite, found))
        if 0 in timed and self.embedding is None:
            self.embedding = timed[0][0]

    @property
    def output_relative_l2(self) -> float | None:
        """The worst of any image and output; None where one was not finite, or none was measured."""
        finite = [error for error in self.errors if error is not None]
        return max(finite) if finite and len(finite) == len(self.errors) else None

    def share(self, node: int) -> Share:
        """What the first rank wants to know of this one, which is on a machine of this number."""
        _, throughput, _ = self.passes
        return Share(
            node=node,
            device=str(throughput.device),
            status=self.status,
            windows=throughput.windows,
            output_relative_l2=self.output_relative_l2,
            nonfinite=self.nonfinite,
        )

    @property
    def issue(self) -> Windows | None:
        """How long the calls of the latency pass took to issue, where the device has a queue and it was timed."""
        return self.passes[0].issue if self.status == "ok" else None

    def figures(self, work: Work | None = None, limits_tflops: Sequence[float] = ()) -> Figures:
        """What follows from the samples of the three passes, beside the limit where one was measured."""
        latency, throughput, end_to_end = (timed.windows for timed in self.passes)
        throughput_ips = formulas.throughput_of(throughput, self.batch_size)
        limit = formulas.beside_the_limit(throughput_ips, work.gflop if work else 0.0, limits_tflops)
        issue = formulas.issue_figures(self.issue, latency)
        return formulas.summarize_passes(self.batch_size, latency, throughput, end_to_end, limit, issue)

    @property
    def fastest_ips(self) -> float:
        """Of the fastest of the three passes; 0 where they were not timed."""
        return formulas.fastest_ips(self.batch_size, self.figures()) if self.status == "ok" else 0.0

    def event(self, work: Work | None, limits_tflops: Sequence[float]) -> Perf:
        if self.status != "ok" or self.warmup is None or self.embedding is None:
            return Perf(batch_size=self.batch_size, mode=self.subject.mode, status=self.status, reason=self.reason)
        timed = Timed(
            device=str(self.embedding.device),
            dtype=devices.dtype_name(self.embedding.dtype),
            first_call_ms=self.warmup.first_call_ms,
            warmup_calls=self.warmup.calls,
            warmup_stable=self.warmup.stable,
            figures=self.figures(work, limits_tflops),
            peak_memory_mb=self.peak_memory_mb,
            output_relative_l2=self.output_relative_l2,
            nonfinite=self.nonfinite,
            image=self.subject.samples[0].name,
            image_sha256=self.subject.first_sha256,
            fingerprint=metrics.fingerprint(self.embedding[0].cpu()),
        )
        return Perf(batch_size=self.batch_size, mode=self.subject.mode, status=self.status, timed=timed)


def failure_of(error: RuntimeError, device: torch.device) -> str:
    """The status of a batch size that this error ended: out of memory, or an operator that does not take this size.

    Raises what the driver reports: from then on a device may compute nothing, and other batch sizes would be timed so.
    """
    if devices.is_out_of_memory(error):
        return "oom"
    if devices.is_told_by_a_driver(error, device):
        raise error
    return "error"


def start_on_device(
    running: Session, encoder: Encoder, pixel_values: Tensor, stopwatch: Stopwatch
) -> tuple[Tensor, Tensor]:
    """Place the encoder and pixel_values [N, 3, H, W] on the device, and time the first call.

    Gives the values there and the first one's embedding.
    """
    with stopwatch.measure("place_ms"):
        devices.place(encoder.module, running.device, running.dtype)
    pixel_values = pixel_values.to(running.device, running.dtype)
    with stopwatch.measure("first_call_ms"):
        embedding, _ = devices.encode(encoder.module, pixel_values[:1])
        devices.synchronize(running.device)
    return pixel_values, embedding


def prepare(running: Session, encoder: Encoder, samples: Sequence[Sample], pixel_values: Tensor) -> Subject:
    """What is to be timed, eager, and what it has to give: the outputs of each image alone."""
    module = encoder.module
    with running.numerics.watch():
        singly = devices.encode_singly(module, pixel_values, running.device, running.dtype)
        expected = [(embedding.cpu(), hidden_state.cpu()) for embedding, hidden_state in singly]
    return Subject(module, encoder.preprocess, samples, pixel_values, expected)


def measure(
    subjects: Sequence[Subject], batch_sizes: Sequence[int], budget: Budget, rank: Rank, meter: Meter | None = None
) -> list[Measurement]:
    """Measure each batch size in each mode: first the warm-ups, then all in each round, so that a drift hits all alike.

    The limit is measured by `meter` after each size of each round. Several ranks do each step at the same time, but
    only one of them has a meter; the first also measures alone, to know what sharing costs.
    """
    measurements = [Measurement.of(subject, batch_size) for subject in subjects for batch_size in batch_sizes]
    steps: list[Callable[[], None]] = [partial(each.attempt, each.warm_up, budget) for each in measurements]
    for round_index in range(timing.ROUNDS):
        for each in measurements:
            steps += [partial(each.attempt, each.measure, timed, budget, round_index) for timed in each.passes]
            steps.append(partial(_measure_limit, meter, round_index, len(measurements), budget))
    for step in tqdm(steps, "timing", unit="step", disable=None):
        rank.gather(None)
        step()
    if rank.count > 1:
        if rank.index == 0:
            for measurement in measurements:
                measurement.attempt(measurement.measure_alone, budget)
        rank.gather(None)
    return measurements


def _measure_limit(meter: Meter | None, round_index: int, visits: int, budget: Budget) -> None:
    """A step of every rank, so that all of them take as many."""
    if meter is not None:
        meter.measure(round_index, visits, budget)


def time_alone(module: nn.Module, pixel_values: Tensor, budget: Budget) -> list[float]:
    """The times in ms of single calls with the same input, after a warm-up."""
    alone = Pass("baseline", lambda turn: devices.forward(module, pixel_values), pixel_values.device)
    timing.warm_up(alone.call, alone.device, budget)
    alone.run_all(budget)
    return alone.samples_ms
