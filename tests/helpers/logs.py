"""Edits of logs, for tests of the checker: records in, a log out that is whole again or not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.log import formulas, schema, tasks
from common.log.events import Kind, Part, Prediction, Ranks, Share, Task, Windows
from common.log.framing import Record, record_text
from common.log.reader import read_runs
from common.log.schema import Integers, Numbers

MARKER = "@record "
Records = list[dict[str, Any]]
Edit = Callable[[Records], None]


def read_records(path: Path) -> Records:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line.partition(MARKER)[2]) for line in lines if MARKER in line]


@dataclass(frozen=True)
class RunOnDisk:
    """The records of a log's only run as they stand there, and what the reader finds wrong with it."""

    records: Records
    problems: list[str]

    def events(self, event: str) -> Records:
        return [record for record in self.records if record["event"] == event]


def read_run(path: Path) -> RunOnDisk:
    (run,) = read_runs(path.read_bytes().splitlines())
    return RunOnDisk(read_records(path), run.problems)


def text_of(record: Record) -> str:
    """As a run writes it, but NaN and infinities too."""
    return record_text(record, allow_nan=True)


def write_records(path: Path, records: Records) -> None:
    path.write_text("".join(f"{MARKER}{text_of(record)}\n" for record in records))


def sign(records: Records) -> Records:
    """The records of one run, numbered and with a run_end that fits them, as somebody who knows the format would."""
    body = [dict(record) for record in records if record["event"] != "run_end"]
    end = {"run": body[0]["run"], "event": "run_end", "status": "complete"}
    for seq, record in enumerate(body):
        record["seq"] = seq
    texts = [text_of(record) for record in body]
    digest = hashlib.sha256("".join(f"{text}\n" for text in texts).encode()).hexdigest()
    return [*body, {**end, "seq": len(body), "records": len(body), "records_sha256": digest}]


def edited(path: Path, target: Path, edit: Edit, signed: bool = True) -> Path:
    """A copy of the log at `path` after `edit`, made whole again where `signed`."""
    records = read_records(path)
    edit(records)
    write_records(target, sign(records) if signed else records)
    return target


def find(records: Records, event: str, **fields: Any) -> dict[str, Any]:
    """The first record of this event with these fields."""
    for record in records:
        if record["event"] == event and all(record.get(key) == value for key, value in fields.items()):
            return record
    raise AssertionError(f"no {event} record with {fields}")


def change(event: str, key: str, value: Any, **fields: Any) -> Edit:
    """An edit that gives one field of one record another value; a callable computes it from the old one."""

    def edit(records: Records) -> None:
        record = find(records, event, **fields)
        record[key] = value(record[key]) if callable(value) else value

    return edit


def drop(event: str, **fields: Any) -> Edit:
    """An edit that removes one record."""
    return lambda records: records.remove(find(records, event, **fields))


def windows(record: dict[str, Any]) -> Windows:
    """The raw samples of a record."""
    return Windows(calls=record["calls"], samples_ms=record["samples_ms"])


def ranks_record(batch_size: int, each: Windows, devices: Sequence[str]) -> dict[str, Any]:
    """A consistent `ranks` record of ranks on these devices, each as fast as the first alone."""
    right: dict[str, Any] = {"status": "ok", "windows": each, "output_relative_l2": 1e-7, "nonfinite": 0}
    shares = [Share(node=0, device=device, **right) for device in devices]
    scaling = formulas.scaling(batch_size, shares, each)
    return {
        "event": Ranks.event,
        **schema.encode(Ranks(batch_size=batch_size, status="ok", scaling=scaling, shares=shares)),
    }


def times_faster(factor: float, *passes: str) -> Edit:
    """A consistent log of a run in which these passes took a fraction of the time."""

    def edit(records: Records) -> None:
        for record in records:
            if record["event"] == "latencies" and record["pass"] in passes:
                record["samples_ms"] = [sample / factor for sample in record["samples_ms"]]
        for row in (record for record in records if record["event"] == "perf"):
            size = row["batch_size"]
            of_row = {r["pass"]: windows(r) for r in records if r.get("batch_size") == size and "pass" in r}
            limits = [record["gemm_tflops"] for record in records if record["event"] == "limit"]
            ips = formulas.throughput_of(of_row["throughput"], size)
            limit = formulas.beside_the_limit(ips, find(records, "model")["gflop_per_image"], limits)
            row |= schema.encode(formulas.summarize_passes(size, **of_row, limit=limit))

    return edit


def even(milliseconds: float) -> Edit:
    """A consistent log in which every call took as long."""

    def edit(records: Records) -> None:
        for record in records:
            if record["event"] == "latencies":
                record["samples_ms"] = [milliseconds * record["calls"]] * 9
        times_faster(1, "latency")(records)

    return edit


# What a ViT of the edit below is made of: modules, and shares of the time and of the operations.
MADE_OF = {"attention": (3, 0.42, 0.35), "mlp": (3, 0.33, 0.6), "norm": (7, 0.1, None), "activation": (3, 0.05, None)}


def with_kinds(records: Records) -> None:
    """Adds what --explain finds of a ViT, at each batch size that was timed: a tenth of the time is no kind's."""
    model = find(records, "model")
    limits = [record["gemm_tflops"] for record in records if record["event"] == "limit"]
    for row in [record for record in records if record["event"] == "perf" and record["status"] == "ok"]:
        size, whole_ms = row["batch_size"], 1000 * row["batch_size"] / row["throughput_ips"]
        gflop = model["gflop_per_image"] * size
        kinds = [kind_event(formulas.FORWARD, size, 1, whole_ms, gflop)]
        for name, (count, time, work) in MADE_OF.items():
            kinds.append(kind_event(name, size, count, whole_ms * time / count, work and gflop * work))
        for kind in formulas.with_shares(kinds, limits):
            records.insert(-1, {"run": records[0]["run"], "seq": 0, "event": Kind.event, **schema.encode(kind)})


def with_task(records: Records) -> None:
    """Adds what --task finds where two of the images change, the second by so little that it is a tie."""
    model, samples = find(records, "model"), [each for each in records if each["event"] == "sample"]
    first = samples[0]["reference"]
    names = [each["image"] for each in samples if (each["output"], each["reference"]) == ("embedding", first)]
    n = len(names)
    prediction = Prediction(
        first=0,
        labels=Integers(at % 2 for at in range(n)),
        reference=Integers(at % 2 for at in range(n)),
        device=Integers((0, 0, *(at % 2 for at in range(2, n)))[:n]),
        margins=Numbers(1e-7 * 10.0**at for at in range(n)),
        changed_images=names[1:2],
    )
    rounding = formulas.rounding_of(model["dtype"])
    task = Task(
        by="knn",
        reference=first,
        labels="labels.csv",
        classes={"one": 0, "two": 1},
        neighbours=n // 2,
        temperature=tasks.TEMPERATURE,
        rounding=rounding,
        figures=tasks.summarize([prediction], rounding, n // 2),
        threshold=0.99,
        result="PASS",
    )
    find(records, "run_start")["argv"] += ["--task", "--labels", "labels.csv"]
    for event in (prediction, task):
        records.insert(-1, {"run": records[0]["run"], "seq": 0, "event": event.event, **schema.encode(event)})


def kind_event(name: str, batch_size: int, count: int, module_ms: float, gflop: float | None) -> Kind:
    """A kind of alike modules, each of which takes this long; what follows from that is yet to come."""
    timed = Windows(calls=2, samples_ms=[2 * module_ms * scale for scale in (1.0, 0.99, 1.2)])
    parts = [Part(module=f"blocks.0.{name}", count=count, windows=timed)]
    figures: dict[str, Any] = {"count": 0, "ms": 0.0, "share": 0.0, "percent_of_limit": None}
    return Kind(name=name, batch_size=batch_size, classes=[name.title()], gflop=gflop, parts=parts, **figures)
