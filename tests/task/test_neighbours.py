"""Nearest neighbours, their vote and its margins: by hand, against scikit-learn, and against errors of every size."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from common.log.tasks import NO_PREDICTION, TEMPERATURE
from common.task import neighbours

A, B = 0, 1


def at(*degrees: float) -> Tensor:
    """Unit vectors in the plane, whose cosines are those of the angles between them."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def find(embeddings: Tensor, count: int = 40) -> neighbours.Neighbours:
    return neighbours.find(embeddings, count, "test")


def clusters(n: int, classes: int, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Embeddings [n, 16] around a centre for each class, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    centres = torch.randn(classes, 16, generator=generator)
    return centres[labels] + spread * torch.randn(n, 16, generator=generator), labels


# ------------------------------------------------------------------------------------------------------------ by hand
def test_the_vote_of_six_points() -> None:
    """Of each the three nearest others, by the angles: the third and the last are outvoted by the other class."""
    points, labels = at(0, 10, 40, 90, 100, 60), torch.tensor([A, A, B, B, B, A])
    found = find(points)
    assert found.place[:, :3].tolist() == [[1, 2, 5], [0, 2, 5], [5, 1, 0], [4, 5, 2], [3, 5, 2], [2, 3, 4]]
    assert found.similarity[0, :3].tolist() == pytest.approx([math.cos(math.radians(d)) for d in (10, 40, 60)])
    assert neighbours.vote(found, labels, 3).tolist() == [A, A, A, B, B, B]


@pytest.mark.parametrize(("near", "winner"), [(5, A), (49, B)])
def test_one_that_is_nearer_outvotes_two(near: float, winner: int) -> None:
    """exp(cos 5 / 0.07) = 1.5e6 against 9.7e3 + 3.6e3; exp(cos 49 / 0.07) = 1.2e4 is less than both."""
    labels = torch.tensor([A, A, B, B])
    assert neighbours.vote(find(at(0, near, -50, -55)), labels, 3)[0] == winner


def test_of_equals_the_first_is_the_nearest() -> None:
    """At the same angle on both sides, and the very same vector three times."""
    assert find(at(0, 20, -20)).place[0].tolist() == [1, 2]
    assert find(at(0, -20, 20)).place[0].tolist() == [1, 2]
    assert find(at(7, 7, 7)).place.tolist() == [[1, 2], [0, 2], [0, 1]]


def test_of_classes_with_as_many_votes_the_first_wins() -> None:
    for labels in ([A, A, B], [A, B, A]):
        assert neighbours.vote(find(at(0, 90, -90)), torch.tensor(labels), 2)[0] == A


def test_one_class_alone_is_always_predicted() -> None:
    assert neighbours.vote(find(at(0, 10, 170)), torch.tensor([A, A, A]), 2).tolist() == [A, A, A]


def test_a_class_of_one_image_is_never_predicted_for_it() -> None:
    """None of its class is left when it is left out itself."""
    assert neighbours.vote(find(at(0, 1, 90)), torch.tensor([A, A, B]), 1).tolist() == [A, A, A]


def test_lengths_do_not_count() -> None:
    points = at(0, 10, 40, 90, 100, 60)
    longer = points * torch.tensor([1e-12, 1.0, 3.0, 1e12, 7.0, 0.1])[:, None]
    assert torch.equal(find(longer).place, find(points).place)


@pytest.mark.parametrize("broken", [math.nan, math.inf, 0.0])
def test_what_is_no_direction_is_nobodys_neighbour(broken: float) -> None:
    points, labels = at(0, 1, 2, 90), torch.tensor([A, A, A, B])
    points[1] = broken
    found = find(points)
    assert neighbours.nearest(found).tolist() == [2, NO_PREDICTION, 0, 2]
    assert neighbours.vote(found, labels, 2).tolist() == [A, NO_PREDICTION, A, A]
    predicted = neighbours.vote(found, labels, 2)
    assert neighbours.vote_margins(found, labels, 2, predicted, predicted)[1] == 0


def test_alone_among_broken_ones_nothing_is_predicted() -> None:
    points = torch.full((3, 2), math.nan)
    points[0] = 1
    assert neighbours.nearest(find(points)).tolist() == [NO_PREDICTION] * 3
    assert neighbours.vote(find(points), torch.tensor([A, A, B]), 2).tolist() == [NO_PREDICTION] * 3


# ------------------------------------------------------------------------------------------------ against scikit-learn
@pytest.mark.parametrize(("classes", "k"), [(2, 1), (5, 5), (30, 20)])
def test_the_vote_is_scikit_learns(classes: int, k: int) -> None:
    """Leave-one-out: of each image a classifier of all others, weighted by exp(cosine / temperature)."""
    embeddings, labels = clusters(240, classes, spread=1.3)
    vectors, known = embeddings.double().numpy(), labels.numpy()

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / TEMPERATURE)

    expected = []
    for left_out in range(len(vectors)):
        others = np.arange(len(vectors)) != left_out
        classifier = KNeighborsClassifier(k, weights=weights, metric="cosine")
        classifier.fit(vectors[others], known[others])
        expected.append(classifier.predict(vectors[left_out : left_out + 1])[0])
    found = neighbours.vote(find(embeddings), labels, k).tolist()
    assert found == expected
    assert 0.3 < np.mean(found == known) < 1


def test_many_images_are_done_in_parts_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, labels = clusters(200, 7, spread=1.5)
    other = embeddings * (1 + 0.01 * torch.randn(200, 16, generator=torch.Generator().manual_seed(1)))

    def everything() -> list[list[float]]:
        found, changed = find(embeddings), find(other)
        own, now = (neighbours.vote(each, labels, 20) for each in (found, changed))
        margins = neighbours.vote_margins(found, labels, 20, own, now)
        alone = neighbours.nearest_margins(found, embeddings, neighbours.nearest(found), neighbours.nearest(changed))
        logits = neighbours.class_margins(embeddings, embeddings.argmax(1), other.argmax(1))
        kept = neighbours.kept(found, changed)
        return [each.tolist() for each in (found.place, own, now, margins, alone, logits, kept)]

    at_once = everything()
    monkeypatch.setattr(neighbours, "AT_ONCE", 3000)  # 15 images of 200
    for parts, whole in zip(everything(), at_once, strict=True):
        assert parts == pytest.approx(whole, rel=1e-3, abs=1e-6) if isinstance(whole[0], float) else parts == whole


# --------------------------------------------------------------------------------------------------------- the margins
def test_margins_of_logits_by_hand() -> None:
    """The gap to the second, or to the class that it became, by the square root of 2 and the norm of (2, 2, 1)."""
    logits = torch.tensor([[3.0, 1.0, 0.0], [2.0, 2.0, 1.0], [0.0, 0.0, 0.0], [3.0, 1.0, 0.0]])
    own, other = torch.tensor([0, 0, 0, 0]), torch.tensor([0, 2, 0, 2])
    expected = [2 / math.sqrt(2 * 10), 1 / (3 * math.sqrt(2)), 0, 3 / math.sqrt(2 * 10)]
    assert neighbours.class_margins(logits, own, other).tolist() == pytest.approx(expected)


def test_margins_of_the_nearest_by_hand() -> None:
    """Each cosine can move by twice the error, towards each other: a quarter of what lies between."""
    points = at(0, 10, 30, 90)
    found, own = find(points), torch.tensor([1, 0, 1, 2])
    cosines = [[math.cos(math.radians(d)) for d in pair] for pair in ((10, 30), (10, 20), (20, 30), (60, 80))]
    expected = [(near - far) / 4 for near, far in cosines]
    assert neighbours.nearest_margins(found, points, own, own).tolist() == pytest.approx(expected, rel=1e-5)
    became = neighbours.nearest_margins(found, points, own, torch.tensor([3, 0, 1, 2]))
    assert float(became[0]) == pytest.approx((math.cos(math.radians(10)) - 0) / 4, rel=1e-5)


def test_the_margin_of_a_vote_of_one_is_that_of_the_nearest() -> None:
    points, labels = at(0, 10, 30, 90), torch.tensor([A, A, B, B])
    found = find(points)
    own = neighbours.vote(found, labels, 1)
    margins = neighbours.vote_margins(found, labels, 1, own, own)
    expected = (math.cos(math.radians(10)) - math.cos(math.radians(30))) / 4
    assert float(margins[0]) == pytest.approx(expected, rel=1e-3)


def test_a_vote_that_nobody_else_is_there_for_can_not_be_lost() -> None:
    points, labels = at(0, 10, 20), torch.tensor([A, A, A])
    own = neighbours.vote(find(points), labels, 2)
    assert neighbours.vote_margins(find(points), labels, 2, own, own).tolist() == [1.0] * 3


def test_votes_that_are_equal_have_no_margin() -> None:
    points, labels = at(0, 40, -40), torch.tensor([A, A, B])
    own = neighbours.vote(find(points), labels, 2)
    assert float(neighbours.vote_margins(find(points), labels, 2, own, own)[0]) < 1e-6


def off_by(embeddings: Tensor, error: float, seed: int) -> Tensor:
    """The embeddings, each with an error of this relative L2."""
    noise = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(seed))
    return embeddings + error * noise * (embeddings.norm(dim=1) / noise.norm(dim=1))[:, None]


@pytest.mark.parametrize("error", [1e-3, 0.01, 0.1])
def test_no_error_changes_a_prediction_by_less_than_its_margin(error: float) -> None:
    """Of votes, of the nearest and of classes; and some predictions do change by such an error."""
    embeddings, labels = clusters(400, 6, spread=1.5)
    embeddings = embeddings.double()
    found = find(embeddings)
    votes, nearest, classes = neighbours.vote(found, labels, 20), neighbours.nearest(found), embeddings.argmax(1)
    changes = 0
    for seed in range(5):
        other = off_by(embeddings, error, seed)
        changed = find(other)
        now = neighbours.vote(changed, labels, 20), neighbours.nearest(changed), other.argmax(1)
        margins = (
            neighbours.vote_margins(found, labels, 20, votes, now[0]),
            neighbours.nearest_margins(found, embeddings, nearest, now[1]),
            neighbours.class_margins(embeddings, classes, now[2]),
        )
        for own, became, margin in zip((votes, nearest, classes), now, margins, strict=True):
            assert bool((margin[own != became] <= error * 1.001 + 1e-7).all())
            changes += int((own != became).sum())
    assert changes > 3


def test_the_same_neighbours_are_counted() -> None:
    assert neighbours.kept(find(at(0, 10, 30, 90), 2), find(at(0, 10, 90, 30), 2)).tolist() == [1, 1, 1, 1]
    assert neighbours.kept(find(at(0, 10, 30), 2), find(at(0, 80, 30), 2)).tolist() == [2, 2, 2]


# ------------------------------------------------------------------------------------------------ classes of its own
def test_the_class_is_that_of_the_largest_logit() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [math.nan, 3.0, 2.0], [-1.0, -math.inf, 0.0], [2.0, 2.0, 1.0]])
    assert neighbours.predict_classes(logits).tolist() == [1, NO_PREDICTION, NO_PREDICTION, 0]
