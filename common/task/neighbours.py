"""Nearest neighbours among embeddings by cosine similarity, none its own, and what they vote for.

All of it in bounded memory: similarities of some images with all at a time, of which the largest are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from common.log.tasks import NO_PREDICTION, TEMPERATURE

AT_ONCE = 2**24  # elements of a matrix of some images
# An embedding that errs by a relative L2 of e, as its neighbours do, errs by no more in a cosine than twice that.
COSINE_ERROR = 2.0
LARGEST_MARGIN = 1.0
SMALLEST_EXPONENT = -30.0  # of two: of the smallest margin of a vote
BISECTIONS = 16


class Neighbours(NamedTuple):
    """Of each of N embeddings the nearest others, the most similar first and of equals the first in place.

    `similarity` and `place` are [N, M]. What is not finite, or zero, is nobody's neighbour: `usable` [N] is False of
    it, and its similarity to others -inf.
    """

    similarity: Tensor
    place: Tensor
    usable: Tensor

    def rows(self, at: slice) -> Neighbours:
        return Neighbours(*(each[at] for each in self))


def find(embeddings: Tensor, count: int, doing: str) -> Neighbours:
    """The `count` nearest others of each of embeddings [N, D], or all others where they are fewer."""
    unit, usable = normalised(embeddings)
    count = min(count, len(unit) - 1)
    similarity, place = [], []
    for at in chunks(len(unit), len(unit), doing):
        rows = unit[at] @ unit.T
        rows[:, ~usable] = -torch.inf
        rows[range(len(rows)), range(at.start, at.start + len(rows))] = -torch.inf
        found = rows.topk(count)
        places, order = found.indices.sort()  # so that the stable sort below leaves equals in their order
        similar = found.values.gather(1, order).double()
        similar, order = similar.sort(descending=True, stable=True)
        similarity.append(similar)
        place.append(places.gather(1, order))
    return Neighbours(torch.cat(similarity), torch.cat(place), usable)


def normalised(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """The unit vectors of embeddings [N, D] in float32, zeros for those that have none, and which have one [N]."""
    norms = torch.linalg.vector_norm(embeddings, dim=1, dtype=torch.float64)
    usable = norms.isfinite() & (norms > 0)
    unit = embeddings.float() / torch.where(usable, norms, 1.0).float()[:, None]
    unit[~usable] = 0
    return unit, usable


def chunks(n: int, width: int, doing: str | None = None) -> Iterator[slice]:
    """Slices of n rows of this width, each in bounded memory; with a bar where something is said to be done."""
    size = max(1, AT_ONCE // max(1, width))
    with tqdm(total=n, desc=doing, unit="image", disable=None if doing and n > size else True) as bar:
        for start in range(0, n, size):
            yield slice(start, min(start + size, n))
            bar.update(min(size, n - start))


# ------------------------------------------------------------------------------------------------------------ the vote
def vote(found: Neighbours, labels: Tensor, k: int) -> Tensor:
    """The class [N] that the k nearest vote for, each with exp(cosine / temperature), by the labels [N] of all.

    Of classes with as many votes it is the first.
    """
    classes = int(labels.max()) + 1
    predicted = []
    for at in chunks(len(labels), classes):
        near = found.rows(at)
        similarity, chosen = near.similarity[:, :k], labels[near.place[:, :k]]
        weights = votes(similarity, similarity[:, :1])
        counted = torch.zeros(len(chosen), classes, dtype=torch.float64).scatter_add_(1, chosen, weights)
        has_neighbours = near.usable & similarity[:, 0].isfinite()
        predicted.append(counted.argmax(1).where(has_neighbours, NO_PREDICTION))
    return torch.cat(predicted)


def votes(similarity: Tensor, largest: Tensor) -> Tensor:
    """Weights of similarities, as shares of that of the largest; 0 for -inf."""
    return ((similarity - largest) / TEMPERATURE).exp().nan_to_num(nan=0.0)


def vote_margins(found: Neighbours, labels: Tensor, k: int, own: Tensor, other: Tensor) -> Tensor:
    """How large an error of the embeddings, as a relative L2, it takes to turn a vote for `own` [N] into one for
    `other` [N], or into one for any other class where both are the same.

    To first order, and at least: every cosine moves as far as it can. The vote's own k nearest are sure until another
    could be nearer, and those that `found` has beyond them count as soon as they could be among the k nearest.
    """
    margins = []
    for at in chunks(len(labels), found.place.shape[1] ** 2):
        near, mine, theirs = found.rows(at), own[at, None], other[at, None]
        classes = labels[near.place]
        rivals = torch.where(mine == theirs, classes != mine, classes == theirs)
        alike = (classes[:, :, None] == classes[:, None, :]).double()
        high = torch.zeros(len(classes), dtype=torch.float64)
        low = torch.full_like(high, SMALLEST_EXPONENT)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            turns = can_turn(near, k, classes == mine, rivals, alike, 2.0 ** middle[:, None])
            low, high = torch.where(turns, low, middle), torch.where(turns, middle, high)
        margins.append((2.0**high).where(near.usable, 0.0))
    return torch.cat(margins)


def can_turn(near: Neighbours, k: int, mine: Tensor, rivals: Tensor, alike: Tensor, error: Tensor) -> Tensor:
    """Whether an error [B, 1] can turn the vote: the votes that `mine` [B, M] is sure of against those that the best of
    the `rivals` [B, M] can get, where `alike` [B, M, M] says which are of one class.
    """
    similarity, moved = near.similarity, COSINE_ERROR * error
    largest, least = similarity[:, :1], similarity[:, k - 1 : k]
    beyond = similarity[:, k : k + 1] if similarity.shape[1] > k else torch.full_like(largest, -torch.inf)
    sure = mine & (similarity > beyond + 2 * moved)
    possible = similarity >= least - 2 * moved
    kept = (votes(similarity - moved, largest) * sure).sum(1)
    gained = (alike @ (votes(similarity + moved, largest) * possible)[:, :, None])[:, :, 0]
    return (gained * rivals).amax(1) >= kept


# --------------------------------------------------------------------------------------------------- the nearest alone
def nearest(found: Neighbours) -> Tensor:
    """The place [N] of the nearest."""
    return found.place[:, 0].where(found.usable & found.similarity[:, 0].isfinite(), NO_PREDICTION)


def nearest_margins(found: Neighbours, embeddings: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """As `vote_margins`, of the nearest neighbour: `own` [N] and `other` [N] are places, found in embeddings [N, D]."""
    unit, _ = normalised(embeddings)
    second = found.similarity[:, 1] if found.similarity.shape[1] > 1 else torch.full((len(own),), -torch.inf)
    changed = (unit * unit[other]).sum(1).double()
    gap = found.similarity[:, 0] - torch.where((own == other) | (other == NO_PREDICTION), second, changed)
    return (gap / (2 * COSINE_ERROR)).nan_to_num(nan=0.0).clamp(0.0, LARGEST_MARGIN)


def kept(found: Neighbours, others: Neighbours) -> Tensor:
    """How many neighbours of each image [N] are the same in both."""
    same = [
        (found.place[at, :, None] == others.place[at, None, :]).any(2).sum(1)
        for at in chunks(len(found.place), found.place.shape[1] ** 2)
    ]
    return torch.cat(same)


# --------------------------------------------------------------------------------------------------- classes of its own
def predict_classes(logits: Tensor) -> Tensor:
    """The class [N] with the largest of logits [N, C]."""
    return logits.argmax(1).where(logits.isfinite().all(1), NO_PREDICTION)


def class_margins(logits: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """As `vote_margins`, of a classifier: half the squared gap between two logits [N, C] is what an error has to close,
    so that the margin is gap / sqrt(2) as a share of the norm.
    """
    margins = []
    for at in chunks(*logits.shape):
        rows, mine, theirs = logits[at].double(), own[at, None].clamp(min=0), other[at, None].clamp(min=0)
        largest = rows.gather(1, mine)
        rest = rows.scatter(1, mine, -torch.inf).amax(1, keepdim=True)
        gap = largest - torch.where((mine == theirs) | (other[at, None] < 0), rest, rows.gather(1, theirs))
        margins.append((gap[:, 0] / (2**0.5 * rows.norm(dim=1))).nan_to_num(nan=0.0).clamp(0.0, LARGEST_MARGIN))
    return torch.cat(margins)
