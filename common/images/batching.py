"""Batches of images, decoded and preprocessed in worker processes while the device computes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from common.errors import UserError, first_line
from common.images.decoding import ImageError, Sample
from common.images.remarks import Remarks

MOST_WORKERS = 8  # more rarely keep up with one device any better
AHEAD = 2  # batches that each worker prepares before they are asked for
# What torch says of a worker that was killed, and of a container or file system that lets it share no more memory.
DEAD_WORKER = "DataLoader worker (pid"
NO_SHARED_MEMORY = ("shared memory", "unable to resize file")


@dataclass(frozen=True)
class Batch:
    """The images of a batch that could be decoded, pixel_values [B, 3, H, W], and why the others could not.

    `refused` is an image that may not be left out: an error for the main process to raise.
    """

    names: list[str]
    sha256: list[str]
    pixel_values: Tensor
    skipped: dict[str, str]
    refused: str | None
    remarks: Remarks


class Batches(Dataset[Batch]):
    """Batch k holds the images from k x batch_size on; the last may be smaller."""

    def __init__(
        self, samples: Sequence[Sample], batch_size: int, preprocess: Callable[[Image], Tensor], strict: bool
    ) -> None:
        """`strict`: an image that was found in a folder is refused too when it can't be decoded."""
        self.samples, self.batch_size, self.preprocess, self.strict = samples, batch_size, preprocess, strict

    def __len__(self) -> int:
        return -(-len(self.samples) // self.batch_size)

    def size_of(self, index: int) -> int:
        """How many images the batch is of, those that can't be decoded too."""
        return min(self.batch_size, len(self.samples) - index * self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        pixel_values, good, skipped, refused, remarks = [], [], {}, None, Remarks()
        for sample in self.samples[index * self.batch_size : (index + 1) * self.batch_size]:
            try:
                image = sample.load()
                pixel_values.append(self.preprocess(image))
                good.append(sample)
                if sample.crop is None:  # a crop is of one that has been told of
                    remarks.note(sample.name, image)
            except UserError as error:
                skipped[sample.name] = error.reason if isinstance(error, ImageError) else str(error)
                if not sample.is_optional(self.strict):
                    refused = refused or str(error)
        stacked = torch.stack(pixel_values) if pixel_values else torch.empty(0)
        if get_worker_info() is not None:
            # Here a failure reaches the main process. In the thread that sends a batch nobody would hear of it, and the
            # main process would wait for ever.
            stacked.share_memory_()  # type: ignore[no-untyped-call]
        names, sha256 = [sample.name for sample in good], [sample.sha256() for sample in good]
        return Batch(names, sha256, stacked, skipped, refused, remarks)


def default_workers(ranks: int) -> int:
    """A worker for each processor that this rank may use, but one of them for the rank itself."""
    return max(1, min(MOST_WORKERS, len(os.sched_getaffinity(0)) // ranks - 1))


def load(batches: Batches, indices: Sequence[int], workers: int) -> Iterator[Batch]:
    """The batches of these indices in order; one alone is prepared without a worker.

    Raises UserError when a worker dies, and where shared memory is too small for what the workers prepare.
    """
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=indices,
        num_workers=workers if len(indices) > 1 else 0,
        prefetch_factor=AHEAD if workers and len(indices) > 1 else None,
    )
    try:
        yield from loader
    except RuntimeError as error:
        if any(words in str(error) for words in NO_SHARED_MEMORY):
            raise UserError(
                "the workers' batches do not fit in shared memory: fewer --workers or a smaller --batch-size take "
                "less, docker run --shm-size gives more, --workers 0 needs none"
            ) from error
        if DEAD_WORKER not in str(error):
            raise
        raise UserError(f"{first_line(error)}; --workers 0 prepares the images without workers") from error
