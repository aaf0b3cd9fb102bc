"""An encoder over many images: batch by batch, part by part, shared between ranks, into one feature file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from common.cli.options import POOLED
from common.device import devices
from common.device.ranks import Rank
from common.encoder.base import Encoder
from common.errors import UserError
from common.features.files import FEATURES, RUN, FeatureParts, Part
from common.images import batching
from common.images.batching import Batches
from common.images.decoding import files_sha256
from common.log import schema
from common.log.writer import RunLog, code_sha256, git_commit
from common.session import Session


@dataclass
class Embedder:
    """Runs an encoder on batches of images. What is the same for every batch is recorded with the first."""

    running: Session
    encoder: Encoder
    batches: Batches
    workers: int
    hashed: bool = False  # whether the weights' hash is recorded
    described: dict[str, Any] | None = None  # what was recorded with the first batch, by event

    def embed(self, ranges: Sequence[range]) -> Iterator[Part]:
        """The features of each range of batches. Raises UserError for an image that may not be left out."""
        indices = [index for batches in ranges for index in batches]
        loaded = batching.load(self.batches, indices, self.workers)
        images = sum(map(self.batches.size_of, indices))
        with tqdm(total=images, unit="image", disable=None if len(indices) > 1 else True) as bar:
            for batches in ranges:
                made = []
                for batch in itertools.islice(loaded, len(batches)):
                    if batch.refused:
                        raise UserError(batch.refused)
                    embeddings = self.encode(batch.pixel_values) if batch.names else np.empty((0, 0), np.float32)
                    made.append(Part(embeddings, batch.names, batch.sha256, batch.skipped, batch.remarks))
                    bar.update(len(batch.names) + len(batch.skipped))
                yield Part.joined(made)

    def record_once(self) -> None:
        """Where no batch was left to compute: run one all the same, for what is recorded with the first."""
        for index in range(len(self.batches)):
            if self.described:
                return
            for _ in self.embed([range(index, index + 1)]):
                pass

    def encode(self, pixel_values: Tensor) -> np.ndarray:
        """The embeddings [B, D] in float32 of pixel_values [B, 3, H, W]."""
        on_device = pixel_values.to(self.running.device, self.running.dtype)
        if self.described:
            embedding, _ = devices.encode(self.encoder.module, on_device)
        else:
            with self.running.numerics.watch():
                embedding, hidden_state = devices.encode(self.encoder.module, on_device)
            recorded = self.running.record(self.encoder, embedding, hashed=self.hashed)
            report_shapes(self.running.log, self.encoder, pixel_values, embedding, hidden_state)
            events = (*recorded, self.running.numerics.event)
            self.described = {event.event: schema.encode(event) for event in events}
        return embedding.cpu().float().numpy()


def report_shapes(log: RunLog, encoder: Encoder, pixel_values: Tensor, embedding: Tensor, hidden_state: Tensor) -> None:
    log.line(f"Model: {encoder.model}")
    seeded = " (seeded, not trained: no class names)" if encoder.weights_source == "random" else ""
    log.line(f"Weights: {encoder.weights_source}{seeded}")
    encoder.describe(log)
    log.line(f"Parameters: {encoder.params / 1e6:.1f}M")
    log.line(f"Input shape: {list(pixel_values.shape)}")
    log.line(f"Output shape: {list(embedding.shape)}")
    log.line(f"Hidden state shape: {list(hidden_state.shape)}")
    log.line(f"Output dtype: {embedding.dtype}")


def write_features(path: Path, resume: bool, rank: Rank, embedder: Embedder) -> Iterator[Part]:
    """Compute this rank's share of the parts that are not there yet. The first rank then gives them all, in order, and
    joins them to the file when they have been looked at.
    """
    running, encoder, batches = embedder.running, embedder.encoder, embedder.batches
    embedder.hashed = True
    about: dict[str, Any] = {
        "model": encoder.model,
        "weights_source": encoder.weights_source,
        "weights_sha256": encoder.weights_sha256,
        "embedding_is": encoder.embedding_is,
        "preprocess": encoder.preprocessing,
        "dtype": devices.dtype_name(running.dtype),
        "numerics": running.numerics.mode,
    }
    name = devices.describe_device(running.device)
    where = {"device": running.device.type, "device_name": name}
    settings = {**about, **where, "images_sha256": files_sha256(batches.samples)}
    parts = FeatureParts(path, len(batches), batches.batch_size, rank.count, settings)
    parts.require_room(running.log, [sample.name for sample in batches.samples])
    if rank.index == 0 and parts.start(resume):
        done = sum(map(parts.is_done, parts.ranges()))
        running.log.line(f"Resumed: {done} of {len(parts.ranges())} parts are there")
    parts.about = rank.gather(parts.about)[0]  # how the first rank shares the batches out
    missing = [part for part in parts.ranges() if not parts.is_done(part)]
    rank.gather(None)  # all know what is missing before anybody adds to it
    mine = [missing[index] for index in rank.share(len(missing))]
    for part, features in zip(mine, embedder.embed(mine), strict=True):
        parts.write(part, features)
    rank.gather(None)
    if rank.index == 0:
        embedder.record_once()
        yield from map(parts.read, parts.ranges())
        made_by = {RUN: {**(embedder.described or {}), "code_sha256": code_sha256(), "git": git_commit()}}
        # Not among the settings of the parts: what they are, `embedding_is` says.
        kind = {FEATURES: POOLED} if encoder.pooled else {}
        shape = parts.join({**about, **kind, "device": str(running.device), "device_name": name, **made_by})
        running.log.line(f"Features: {path} {list(shape)}")
