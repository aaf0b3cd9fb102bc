"""weights.py: files that are read ahead and hashed in a thread."""

from __future__ import annotations

import gc
import hashlib
from pathlib import Path

import pytest

from common.cli import launch
from common.cli.options import ModelChoice
from common.encoder import loading, weights
from common.errors import UserError


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for number, file in enumerate(files):
        file.write_bytes(bytes(range(256)) * (number + 10))
    return files


def test_the_hash_is_that_of_the_whole_file(shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of the pieces: the last one is shorter than the others."""
    expected = hashlib.sha256(shards[0].read_bytes()).hexdigest()
    for size in (1000, 2560, 1 << 20):
        monkeypatch.setattr(weights, "READ_BYTES", size)
        assert weights.files_sha256(shards[:1]) == expected


def test_an_empty_file_has_a_hash(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert weights.files_sha256([tmp_path / "empty"]) == hashlib.sha256().hexdigest()


def test_the_hash_made_ahead_is_the_same(shards: list[Path]) -> None:
    ahead = weights.sha256_ahead(shards)
    assert ahead() == ahead() == weights.files_sha256(shards)


def test_a_failure_of_the_hash_reaches_who_asks_for_it(tmp_path: Path) -> None:
    ahead = weights.sha256_ahead([tmp_path / "missing"])
    with pytest.raises(FileNotFoundError):
        ahead()


def test_a_failure_to_read_ahead_is_nobodys(tmp_path: Path) -> None:
    weights.read_ahead([tmp_path / "missing"]).join()  # an exception in a thread would be a warning of pytest's


def test_an_encoder_that_was_hashed_ahead_has_the_hash_of_its_file(tiny_timm: Path, tiny_vit: Path) -> None:
    for folder in (tiny_timm, tiny_vit):
        found = [loading.load_encoder(ModelChoice(str(folder)), hashed) for hashed in (True, False)]
        expected = weights.files_sha256([folder / "model.safetensors"])
        assert [encoder.weights_sha256 for encoder in found] == [expected, expected]


def test_the_collector_is_paused_only_inside(tiny_timm: Path) -> None:
    with launch.collector_paused():
        assert not gc.isenabled()
        with launch.collector_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(UserError):
        loading.load_encoder(ModelChoice(str(tiny_timm / "missing")))
    assert gc.isenabled()
