"""The images of an accuracy run, batch by batch: decoded as they are needed, or from a saved reference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from common.accuracy.reference import Reference
from common.cli.options import ImageChoice
from common.encoder.base import Preprocessor
from common.errors import UserError
from common.images import batching
from common.images.batching import Batch, Batches
from common.images.decoding import Sample, files_sha256, sample_exactly
from common.images.remarks import Remarks

MANY = 64  # images from which on, where nothing else was said, they come in batches
BATCH_OF_MANY = 8


class Round(Protocol):
    """Batches in order, each of `size_of` images or, where some can't be decoded, fewer."""

    def __len__(self) -> int: ...

    def size_of(self, index: int) -> int: ...

    def load(self, indices: Sequence[int]) -> Iterator[Batch]: ...


class Images(Protocol):
    """What is compared. `identity` is what must be the same in a run that goes on with another's."""

    @property
    def batch_size(self) -> int: ...

    @property
    def identity(self) -> dict[str, Any]: ...

    def __len__(self) -> int: ...

    def rounds(self) -> Iterator[Round]: ...

    def leave_out(self, names: Iterable[str]) -> None: ...

    def pixel_values_of(self, name: str) -> Tensor: ...


@dataclass(frozen=True)
class DecodedRound:
    """Image files or crops of them, decoded and preprocessed by so many worker processes."""

    batches: Batches
    workers: int

    def __len__(self) -> int:
        return len(self.batches)

    def size_of(self, index: int) -> int:
        return self.batches.size_of(index)

    def load(self, indices: Sequence[int]) -> Iterator[Batch]:
        """Raises UserError for an image that may not be left out."""
        for batch in batching.load(self.batches, indices, self.workers):
            if batch.refused:
                raise UserError(batch.refused)
            yield batch


@dataclass
class DecodedImages:
    """The first `wanted` of `samples` that can be decoded; where they are fewer, seeded crops of them follow.

    With 0 it is all of them. Few are in memory at a time; of many they come in batches, from worker processes.
    """

    samples: Sequence[Sample]
    wanted: int
    choice: ImageChoice
    preprocess: Preprocessor
    batch_size: int
    workers: int
    tried: list[Sample] = field(default_factory=list)
    left_out: set[str] = field(default_factory=set)

    @classmethod
    def chosen(
        cls,
        samples: Sequence[Sample],
        wanted: int,
        choice: ImageChoice,
        preprocess: Preprocessor,
        batch_size: int | None,
        workers: int | None,
    ) -> DecodedImages:
        """With the defaults for what is None."""
        many = (wanted or len(samples)) > MANY
        batch_size = batch_size or (BATCH_OF_MANY if many else 1)
        workers = (batching.default_workers(1) if many else 0) if workers is None else workers
        return cls(samples, wanted, choice, preprocess, batch_size, workers)

    def __len__(self) -> int:
        """How many at most."""
        return self.wanted or len(self.samples)

    @property
    def identity(self) -> dict[str, Any]:
        files = files_sha256(self.samples)
        return {"images_sha256": files, "samples": self.wanted, "seed": self.choice.seed, "batch_size": self.batch_size}

    def leave_out(self, names: Iterable[str]) -> None:
        """To be told of those that could not be decoded before the next round begins."""
        self.left_out.update(names)

    def rounds(self) -> Iterator[Round]:
        """Files until they suffice, then crops. Raises UserError where none can be decoded."""
        wanted = len(self)
        while wanted and len(self.tried) < len(self.samples):
            yield self._round(self.samples[len(self.tried) : len(self.tried) + wanted])
            wanted = self.wanted and self.wanted - len(self._good())
        good = self._good()
        if not good:
            raise UserError(f"none of the {len(self.samples)} images could be decoded")
        if wanted:
            yield self._round(sample_exactly(good, len(self), self.choice.seed)[len(good) :])

    def _good(self) -> list[Sample]:
        return [sample for sample in self.tried if sample.name not in self.left_out]

    def _round(self, samples: Sequence[Sample]) -> Round:
        self.tried += samples
        return DecodedRound(Batches(samples, self.batch_size, self.preprocess, self.choice.strict), self.workers)

    def pixel_values_of(self, name: str) -> Tensor:
        """[1, 3, H, W] of an image that was compared."""
        sample = next(sample for sample in self.tried if sample.name == name)
        return self.preprocess(sample.load()).unsqueeze(0)


@dataclass(frozen=True)
class SavedImages:
    """Those of a saved reference, in one round."""

    reference: Reference
    batch_size: int

    @property
    def identity(self) -> dict[str, Any]:
        return {"images": self.reference.image_sha256, "batch_size": self.batch_size}

    def __len__(self) -> int:
        return len(self.reference.images)

    def leave_out(self, names: Iterable[str]) -> None:
        pass

    def rounds(self) -> Iterator[Round]:
        yield SavedRound(self.reference, self.batch_size)

    def pixel_values_of(self, name: str) -> Tensor:
        at = self.reference.images.index(name)
        return self.reference.pixel_values[at : at + 1]


@dataclass(frozen=True)
class SavedRound:
    reference: Reference
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.reference.images) // self.batch_size)

    def size_of(self, index: int) -> int:
        return len(self.reference.images[index * self.batch_size : (index + 1) * self.batch_size])

    def load(self, indices: Sequence[int]) -> Iterator[Batch]:
        for index in indices:
            of = slice(index * self.batch_size, (index + 1) * self.batch_size)
            names, sha256 = self.reference.images[of], self.reference.image_sha256[of]
            yield Batch(names, sha256, self.reference.pixel_values[of], {}, None, Remarks())
