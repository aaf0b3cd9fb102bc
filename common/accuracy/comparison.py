"""The comparison: a device's outputs against a reference, batch by batch, so that few of them are in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from common.accuracy import metrics, repeatability
from common.accuracy.inputs import Images, Round
from common.accuracy.parts import PART_IMAGES, Compared, ComparedParts
from common.accuracy.reference import EXPECTED_IMAGES, Known, References, join
from common.accuracy.saved_reference import Saving
from common.cli import environment
from common.device import devices
from common.device.devices import Outputs
from common.encoder.base import Encoder
from common.images.batching import Batch
from common.log import formulas, schema
from common.log.events import OUTPUTS, Sample, Top5, TopEntry, WorstToken
from common.log.samples import MOST_SINGLE
from common.log.writer import code_sha256
from common.session import Session

ClassName = Callable[[int], str | None] | None


@dataclass
class Making:
    """A part that is being made. `first` has, until they are used, the first images [N, 3, H, W] of all, their first
    references, and the outputs of the very first.
    """

    part: Compared = field(default_factory=Compared)
    first: list[tuple[Tensor, tuple[Tensor, ...], Outputs]] = field(default_factory=list)
    embeddings: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def few(self) -> int:
        return sum(len(pixel_values) for pixel_values, _, _ in self.first)

    def finished(self) -> Compared:
        if self.embeddings:
            both = (torch.cat(each).numpy() for each in zip(*self.embeddings, strict=True))
            self.part.reference, self.part.candidate = both
        return self.part


@dataclass(frozen=True)
class Worst:
    """The image with the largest error so far: pixel_values [1, 3, H, W], and its outputs on the device."""

    image: str
    error: float
    pixel_values: Tensor
    outputs: Outputs


@dataclass
class Comparer:
    """Runs an encoder on the device and compares what it gives. What is the same for all is recorded with the first.

    `saving`, where there is one, keeps all that the reference's side is made of.
    """

    running: Session
    encoder: Encoder  # on the device
    known: Known
    images: Images
    parts: ComparedParts | None = None  # None: few images, of which nothing is kept to go on from
    saving: Saving | None = None
    described: bool = False
    compared: int = 0  # images so far
    worst: Worst | None = None  # of those that were not read

    def run(self, resume: bool) -> Iterator[Compared]:
        """All images in order, part by part; with `resume` those that an earlier run left are not compared again."""
        if self.parts and self.parts.start(resume):
            self.running.log.line(f"Resumed: what {self.parts.folder.name} holds is not compared again")
        before = 0  # batches of the rounds so far
        making = Making()
        step = max(1, PART_IMAGES // self.images.batch_size)
        with tqdm(total=len(self.images), desc=self._doing, unit="image", disable=None) as bar:
            for batches in self.images.rounds():
                places = [_part_at(before + at, step) for at in range(len(batches))]
                done = {place: self.parts is not None and self.parts.is_done(place) for place in places}
                loaded = batches.load([at for at, place in enumerate(places) if not done[place]])
                for at, place in enumerate(places, start=before):
                    if not done[place]:
                        batch = next(loaded)
                        self._compare(batch, making)
                        bar.update(len(batch.names) + len(batch.skipped))
                    elif self.parts and at == place.start:
                        self._describe(batches)
                        making.part = self.parts.read(place)
                        bar.update(len(making.part.names) + len(making.part.skipped))
                    self.images.leave_out(making.part.skipped)
                    if at + 1 == place.stop:
                        yield self._finished(making, place, done[place])
                        making = Making()
                before += len(batches)
            place = _part_at(before, step)
            if before != place.start:
                yield self._finished(making, place, self.parts is not None and self.parts.is_done(place))

    @property
    def _doing(self) -> str:
        device, dtype = self.running.device, devices.dtype_name(self.running.dtype)
        return f"{device} {dtype} against {', '.join(self.known.precisions)}"

    def _finished(self, making: Making, place: range, done: bool) -> Compared:
        """A part that all its batches are in."""
        if done:
            self.compared += len(making.part.names)
            return making.part
        self._find_once(making)
        part = making.finished()
        if self.parts:
            self.parts.write(place, part)
        return part

    def _describe(self, batches: Round) -> None:
        """Where the first image was compared by an earlier run: encode it, for what is recorded with the first."""
        for at in range(len(batches)):
            if self.described:
                return
            for batch in batches.load([at]):
                if batch.names:
                    self._encode(batch.pixel_values)

    def _compare(self, batch: Batch, making: Making) -> None:
        part = making.part
        part.skipped |= batch.skipped
        part.remarks.add(batch.remarks)
        if not batch.names:
            return
        references = self.known.of(batch)
        outputs = self._encode(batch.pixel_values)
        on_host = (outputs[0].cpu(), outputs[1].cpu())
        device, dtype = str(outputs[0].device), devices.dtype_name(outputs[0].dtype)
        samples = compare_outputs(batch, references, on_host, (device, dtype), self.compared, self.encoder.class_name)
        part.samples += samples
        part.names += batch.names
        part.sha256 += batch.sha256
        self._keep_worst(batch, samples, outputs)
        plain = next(iter(references.values()))
        making.embeddings.append((plain[0].float(), on_host[0].float()))
        note_floors(part.floors, references)
        if self.saving:
            self.saving.add(batch, references, on_host)
        if self.compared == 0 or making.first:
            making.first.append((batch.pixel_values, plain, on_host))
            if making.few >= EXPECTED_IMAGES:
                self._find_once(making)
        self.compared += len(batch.names)

    def _keep_worst(self, batch: Batch, samples: Sequence[Sample], outputs: Outputs) -> None:
        """Of the image with the largest error against the first reference, what its explanation needs."""
        worst = max(
            (sample for sample in samples if sample.reference == samples[0].reference),
            key=lambda sample: formulas.size_of(sample.metrics.relative_l2),
        )
        error = formulas.size_of(worst.metrics.relative_l2)
        if self.worst is None or error > self.worst.error:
            at = batch.names.index(worst.image)
            own = (outputs[0][at : at + 1].clone(), outputs[1][at : at + 1].clone())
            self.worst = Worst(worst.image, error, batch.pixel_values[at : at + 1].clone(), own)

    def evidence_of(self, image: str) -> tuple[Tensor, Outputs]:
        """The pixel_values [1, 3, H, W] of an image that was compared, and the device's outputs of it."""
        if self.worst and self.worst.image == image:
            return self.worst.pixel_values, self.worst.outputs
        pixel_values = self.images.pixel_values_of(image)
        return pixel_values, self._encode(pixel_values)

    def _find_once(self, making: Making) -> None:
        """What is found of the first images alone."""
        if not making.first:
            return
        part = making.part
        pixels, plain, outputs = zip(*making.first, strict=True)
        pixel_values = torch.cat(pixels)[:EXPECTED_IMAGES]
        making.first = []
        part.expected = self.known.expect(pixel_values, [each[:EXPECTED_IMAGES] for each in join(plain)])
        named = (part.names[0], part.sha256[0])
        part.repeats = repeatability.repeat(self.running, self.encoder.module, pixel_values, outputs[0], *named)

    def _encode(self, pixel_values: Tensor) -> Outputs:
        """The outputs on the device of pixel_values [B, 3, H, W]."""
        on_device = pixel_values.to(self.running.device, self.running.dtype)
        if self.described:
            return devices.encode(self.encoder.module, on_device)
        with self.running.numerics.watch():
            outputs = devices.encode(self.encoder.module, on_device)
        self.running.record(self.encoder, outputs[0], references=self.known.precisions)
        self.described = True
        return outputs


def _part_at(place: int, step: int) -> range:
    """The batches of the part that one is in, those of all rounds counted."""
    start = place - place % step
    return range(start, start + step)


def compare_outputs(
    batch: Batch,
    references: References,
    outputs: Sequence[Tensor],
    by: tuple[str, str],
    place: int,
    class_name: ClassName = None,
) -> list[Sample]:
    """The samples of a batch's images, the first of which is at this place among all: against each precision one image
    after another. `outputs` are on the host; a device computed them in a dtype.
    """
    samples: list[Sample] = []
    for precision, known in references.items():
        of_outputs = [
            list(_compare_output(batch, (precision, output), by, r, y, place, class_name))
            for output, r, y in zip(OUTPUTS, known, outputs, strict=False)
        ]
        samples += [sample for of_image in zip(*of_outputs, strict=True) for sample in of_image]
    return samples


def _compare_output(
    batch: Batch,
    of: tuple[str, str],
    by: tuple[str, str],
    references: Tensor,
    candidates: Tensor,
    place: int,
    class_name: ClassName,
) -> Iterator[Sample]:
    """One output of each image of a batch, against one precision."""
    (precision, output), (device, dtype) = of, by
    found, nonfinite = (
        metrics.compare_each(references, candidates),
        metrics.count_nonfinite_each(references, candidates),
    )
    for at, (name, sha256, r, y) in enumerate(zip(batch.names, batch.sha256, references, candidates, strict=True)):
        fingerprint = worst = top5 = None
        if output == "embedding":
            if place + at < MOST_SINGLE:
                fingerprint = metrics.fingerprint(y)
            if place + at < MOST_SINGLE and found[at].top5_match is not None:
                top5 = Top5(reference_top5=entries(r, class_name), device_top5=entries(y, class_name))
        else:
            token, error = metrics.worst_token(r, y)
            worst = WorstToken(worst_token=token, worst_token_relative_l2=error)
        yield Sample(
            image=name,
            image_sha256=sha256,
            reference=precision,
            output=output,
            device=device,
            dtype=dtype,
            shape=[1, *y.shape],
            metrics=found[at],
            nonfinite=nonfinite[at],
            fingerprint=fingerprint,
            worst=worst,
            top5=top5,
        )


def entries(embedding: Tensor, class_name: ClassName) -> list[TopEntry]:
    """The five largest elements of [D], with their classes where these have names."""
    return [
        TopEntry(index=index, value=value, label=class_name(index) if class_name else None)
        for index, value in metrics.top5(embedding.double()).items()
    ]


def note_floors(floors: dict[str, float | None], references: References) -> None:
    """How far the CPU's float32 is from its float64, by output, where both are known: the largest so far."""
    if {"float32", "float64"} <= references.keys():
        for output, golden, float32 in zip(OUTPUTS, references["float64"], references["float32"], strict=True):
            errors = floors.get(output, 0.0), metrics.worst_relative_l2(golden, float32)
            floors[output] = max(errors, key=formulas.size_of)


def settings(running: Session, encoder: Encoder, known: Known, images: Images) -> dict[str, Any]:
    """What a run has to have in common with the one whose parts it goes on with."""
    return {
        "model": encoder.model,
        "weights_sha256": encoder.weights_sha256,
        "preprocess": encoder.preprocessing,
        "device": str(running.device),
        "device_name": devices.describe_device(running.device),
        "dtype": devices.dtype_name(running.dtype),
        "numerics": running.numerics.mode,
        "references": list(known.precisions),
        "packages": schema.encode(environment.describe_host().packages),
        "code_sha256": code_sha256(),
        **images.identity,
    }
