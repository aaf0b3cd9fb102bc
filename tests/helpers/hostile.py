"""Logs with all that pages show, and texts in them that would be markup if they were not escaped."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from helpers.logs import Edit, Records, find, with_kinds
from markdown_it import MarkdownIt
from markdown_it.token import Token

from common.log import schema
from common.log.events import DECLARED

HOSTILE = [
    "a|b||c",
    "`code` ``` ~~~",
    "x](javascript:alert(1)) ![y](http://evil/z.png)",
    "<script>alert(1)</script><img src=x onerror=y>",
    "line\n\n# heading\r\n- item\n---\n",
    "\x1b[31mred\x1b]0;title\x07\x9b2J",
    "--- *bold* __strong__ _em_ ~~gone~~",
    "cod\u202egnp.exe \u200b\u2066 \ufeff",
    "http://evil.example www.evil.example mailto:a@b.c &lt;b&gt; &#60;",
    "\\|back\\slash\\",
    "1. one [x]: http://evil [^1]",
    "\ud800 lone",
]


# What decides whether there is a run at all.
FRAME = {("run_start", "script"), ("run_end", "status"), ("run_end", "records_sha256")}


def explained(records: Records) -> None:
    """Adds what --explain finds on a device with HF32 and a tanh GELU, and a block that stands out."""
    common = {"run": records[0]["run"], "seq": 0}
    found = [("conv_hf32", 0.143), ("conv_hf32+gelu_tanh", 0.9987), ("bfloat16", -1822.3)]
    unknown = dict.fromkeys(("residual", "correlation", "size", "repeatable"))
    added = [
        {**common, "event": "cause", "cause": cause, "explained": share, "best": share > 0.9, **unknown}
        for cause, share in found
    ]
    for block, isolated in enumerate((1.25e-5, 0.0321)):
        layer = {"event": "layer", "block": block, "name": f"blocks.{block}", "isolated": isolated}
        added.append({**common, **layer, "propagated": isolated * 2, "blamed": isolated > 0.01})
    records[-1:-1] = added


def with_speedup(records: Records) -> None:
    latency = find(records, "perf", batch_size=1)["avg_latency_ms"]
    fields = {"speedup": 20.0 / latency, "baseline_latency_ms": 20.0, "baseline_threads": 2}
    records.insert(
        -1, {"run": records[0]["run"], "seq": 0, "event": "speedup", **fields, "baseline_samples_ms": [20.0]}
    )


def with_all(records: Records) -> None:
    """Adds all that a perf run may say beside its figures."""
    with_speedup(records)
    with_kinds(records)


def out_of_memory(records: Records) -> None:
    row = find(records, "perf", batch_size=2)
    kept = {key: row[key] for key in ("run", "seq", "event", "batch_size")}
    records[records.index(row)] = {**kept, "status": "oom", "reason": "out of memory"}
    records[:] = [r for r in records if not (r["event"] == "latencies" and r["batch_size"] == 2)]


NPU = {"device": "npu:0", "device_name": "Ascend910B2", "simulated": False, "torch_npu": "2.9.0", "cann": "8.5.1"}


def on_device(**env: object) -> Edit:
    def edit(records: Records) -> None:
        find(records, "env").update(env, parameters_device=env["device"])
        find(records, "model").update(model="timm/tiny", weights_source="timm/tiny")
        for record in records:
            if record["event"] in ("sample", "perf"):
                record["device"] = env["device"]

    return edit


def poisoned(bad: str) -> Edit:
    """The text in every field of every event that holds any text, and nothing of what may be missing left out."""

    def inside(kind: Any, value: Any) -> Any:
        if kind is str:
            return bad
        if value is None:
            return None
        if dataclasses.is_dataclass(kind):
            return fields(kind, value, "")
        if get_origin(kind) is list:
            return [inside(get_args(kind)[0], each) for each in value]
        if kind is Any or get_args(kind)[1:] == (Any,):
            return dict.fromkeys(value, bad)
        return value

    def fields(declaration: Any, record: dict[str, Any], event: str) -> dict[str, Any]:
        for member in schema.members(declaration):
            if member.flat:
                fields(member.kind, record, event)
            elif member.key in record and not member.one_of and (event, member.key) not in FRAME:
                record[member.key] = inside(member.kind, record[member.key])
        return record

    def edit(records: Records) -> None:
        for record in records:
            fields(DECLARED[record["event"]], record, record["event"])

    return edit


def complete(kind: str) -> Edit:
    """Adds to a run of this kind every event that it may hold, so that every text of a page is there."""

    def edit(records: Records) -> None:
        common = {"run": records[0]["run"], "seq": 0}
        added: list[dict[str, Any]] = [
            {"event": "fallback", "operators": ["aten::x"]},
            {"event": "skipped", "image": "x.jpg", "reason": "y"},
            {"event": "animation", "image": "x.gif", "frames": 2},
            {"event": "nonfinite_weights", "tensors": ["x"]},
        ]
        if kind == "accuracy":
            explained(records)
            source = dict.fromkeys(("file", "file_sha256", "model", "code_sha256", "git"), "x")
            added.append({"event": "noise_floor", "output": "embedding", "relative_l2": 1e-7})
            more = {"precisions": ["x"], "preprocess": {"source": "x"}, "versions": {"torch": "x"}}
            added.append({"event": "reference_source", **source, **more})
        if kind == "benchmark":
            out_of_memory(records)
            with_all(records)
        records[-1:-1] = [{**common, **record} for record in added]

    return edit


def walk(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from walk(token.children or [])


def structure(page: str) -> Counter[str]:
    """What a page is made of for a Markdown reader, but for its plain text and line breaks."""
    body = page.split("\n---\n", 1)[1]
    found = walk(MarkdownIt("commonmark", {"html": True}).enable("table").parse(body))
    return Counter(token.type for token in found if token.type not in ("text", "softbreak", "text_special"))


def targets(page: str) -> set[str]:
    found = walk(MarkdownIt("commonmark").enable("table").parse(page.split("\n---\n", 1)[1]))
    return {
        str(token.attrs.get("href") or token.attrs["src"]) for token in found if token.type in ("link_open", "image")
    }


def assert_same_structure(page: str, plain: str) -> None:
    assert structure(page) == structure(plain)
    assert targets(page) == targets(plain)
    assert not re.search(r"<script|<img|\]\(javascript|\]\(http", page)
