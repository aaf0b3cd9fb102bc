"""The largest outputs of every image, printed for a few and recorded for all, and which images were left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.encoder.base import Encoder
from common.errors import UserError
from common.features.files import Part
from common.images.remarks import ImagesReport
from common.log.events import Inference, TopEntry
from common.log.writer import RunLog

MOST_PRINTED = 10  # images; of the others there are records only


class Report:
    """What is printed and recorded of every image: its largest outputs, or why it was left out."""

    def __init__(self, log: RunLog, topk: int, encoder: Encoder, expected: int) -> None:
        self.log, self.topk, self.encoder, self.expected = log, topk, encoder, expected
        self.images = self.skipped = 0
        self.about_images = ImagesReport(log)

    def add(self, part: Part) -> None:
        for name, sha256, vector in zip(part.names, part.sha256, part.embeddings, strict=True):
            self.images += 1
            self._add_image(name, sha256, vector)
        self.skipped += len(part.skipped)
        self.about_images.add(part.remarks, part.skipped)

    def finish(self) -> str:
        """Print the counts, and give them in a few words. Raises UserError where there was no image to count."""
        if self.images == 0:
            raise UserError(f"none of the {self.expected} images could be decoded")
        if self.images > MOST_PRINTED:
            self.log.line(f"... and {self.images - MOST_PRINTED} more images, each with its record in the log")
        self.about_images.finish()
        if self.skipped:
            self.log.line(f"Skipped images: {self.skipped} of {self.expected}")
        return f"done: {self.images} {'image' if self.images == 1 else 'images'}"

    def _add_image(self, name: str, sha256: str, vector: np.ndarray) -> None:
        largest = vector.argsort(kind="stable")[::-1][: self.topk]
        label = self.encoder.class_name
        top = [
            TopEntry(index=index, value=float(vector[index]), label=label(index) if label else None)
            for index in largest.tolist()
        ]
        nonfinite = int((~np.isfinite(vector)).sum())
        if self.images <= MOST_PRINTED:
            self._print_image(name, top)
        if nonfinite:
            self.log.line(f"warning: {nonfinite} of {len(vector)} outputs of {name} are NaN or infinite")
        shape = [1, len(vector)]
        self.log.record(Inference(image=name, image_sha256=sha256, output_shape=shape, nonfinite=nonfinite, topk=top))

    def _print_image(self, name: str, top: Sequence[TopEntry]) -> None:
        self.log.line()
        self.log.line(f"Top-{len(top)} outputs (index, value){f' of {name}' if self.expected > 1 else ''}:")
        for place, entry in enumerate(top, start=1):
            label = f", label={entry.label}" if entry.label else ""
            self.log.line(f"  {place}. index={entry.index}, value={entry.value:.6f}{label}")
