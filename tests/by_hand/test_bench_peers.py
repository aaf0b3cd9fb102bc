"""bench_peers.py runs, on a tiny model; what it prints is nobody's bound."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from by_hand import bench_peers
from conftest import Runner

QUICK = ("--batch-size", "2", "--pairs", "1", "--warmup", "1", "--iterations", "5", "--threads", "1", "--photos", "3")
NAMED = ("--rows", "timm-loop", "pipeline", "folder")
ROWS = ("timm-loop", "pipeline", "folder/decode", "folder/model", "folder/timm")  # a cold start takes seconds a process
RATIO = r"(\d+\.\d{3}) \(\1\.\.\1\)"  # of one round the median, the least and the largest


def test_every_row_gives_ratios(run_script: Runner, tiny_timm: Path) -> None:
    finished = run_script("tests/by_hand/bench_peers.py", "--model", tiny_timm, *QUICK, *NAMED)
    assert finished.code == 0, finished.stderr
    rows = finished.stdout.splitlines()[2:]
    assert [row.split()[0] for row in rows] == list(ROWS)
    assert all(len(re.findall(RATIO, row)) == 2 for row in rows)


def test_ours_is_always_next_to_the_peer() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    rounds = bench_peers.compare(lambda: measure("ours"), lambda: measure("peer"), 2)
    assert order == ["ours", "peer", "peer", "peer", "peer", "ours"]
    assert rounds == [bench_peers.Round(1, 2, 3), bench_peers.Round(6, 5, 4)]


@pytest.mark.parametrize("peer", [torch.tensor([1.0, 2.01]), torch.tensor([1.0, torch.nan]), torch.ones(3)])
def test_ways_that_differ_are_not_compared(peer: torch.Tensor) -> None:
    with pytest.raises(SystemExit, match="differ"):
        bench_peers.require_same("row", torch.tensor([1.0, 2.0]), peer)
