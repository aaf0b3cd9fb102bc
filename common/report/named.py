"""The facts of a page under plain names, for templates of the user's own: texts, numbers, lists and objects of these.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.log import schema
from common.log.conclusions import advise, conclude_causes
from common.log.events import OUTPUTS, Accuracy, Cause, Perf, RunStart
from common.log.figures import format_figure
from common.log.reader import Run, UnjudgeableError
from common.report.facts import Page, Topic
from common.report.scoring import scoring_of
from common.verdict.evidence import Check, Judgement


def facts_of(page: Page) -> dict[str, Any]:
    """All names that a template may use, each there for every page: None, or empty, where there is nothing to tell.

    Of several encoders they are the first's, but for the verdict, its checks and the logs.
    """
    topic = page.topics[0] if page.topics else None
    return {**dict.fromkeys(NAMES), **_of_page(page), **(_of_topic(topic) if topic else {})}


def facts_of_nothing() -> list[str]:
    """The names alone."""
    return list(facts_of(Page(Judgement([]), [])))


def _of_page(page: Page) -> dict[str, Any]:
    judgement = page.judgement
    return {
        "verdict": str(judgement.verdict),
        "checks": [_check(check) for check in judgement.checks],
        "failed": [_check(check) for check in page.failed],
        "error": judgement.error,
        "remarks": [remark.en for remark in judgement.remarks],
        "remarks_zh": [remark.zh for remark in judgement.remarks],
        "lines": list(page.lines),
        "tags": page.tags,
        "hash_tags": page.hash_tags,
        "logs": [_log(page, run) for run in page.runs],
        **{name: [] for name in LISTS},
        **{name: {} for name in OBJECTS},
    }


def _check(check: Check) -> dict[str, str]:
    return {"name": check.name, "value": check.value, "bound": check.bound, "verdict": str(check.verdict)}


def _log(page: Page, run: Run) -> dict[str, Any]:
    start, end = next(iter(run.all(RunStart)), None), run.end
    return {
        "log": page.topics[0].path_of(run) if page.topics else run.log,
        "script": run.script,
        "run": run.id,
        "utc": start and start.utc,
        "records": end and end.records,
        "records_sha256": end and end.records_sha256,
    }


def _of_topic(topic: Topic) -> dict[str, Any]:
    model, env, host = topic.model, topic.env, topic.env.host
    accuracies = [event for run in topic.group.of("accuracy") for event in run.all(Accuracy)]
    alone, best, speedup = topic.alone, topic.best, topic.speedup
    figures = alone.timed.figures if alone and alone.timed else None
    cause = _cause(topic)
    return {
        **{name: getattr(model, name) for name in OF_MODEL},
        "params_text": format_figure("params", model.params),
        "structure": model.structure or {},
        "output_shape": topic.shape_of("embedding"),
        "weights_url": topic.weights_url,
        "preprocess": model.preprocess.get("source"),
        "gflop_per_image": topic.cost and topic.cost.gflop_per_image,
        **{name: getattr(env, name) for name in ("device", "device_name", "device_count", "cpu_threads")},
        "simulated": env.is_simulated,
        "real_npu": env.kind == "npu" and not env.is_simulated,
        "hardware": list(topic.hardware),
        **{name: getattr(host, name) for name in ("cann", "npu_driver", "python", "platform", "cpu_model")},
        "packages": {name: version for name, version in schema.encode(host.packages).items() if version},
        "fallbacks": topic.fallbacks,
        "images": list(dict.fromkeys(sample.image for sample in topic.samples)),
        "samples": max((each.samples for each in accuracies), default=None),
        "threshold": max((each.threshold for each in accuracies), default=None),
        "metrics": {
            output: schema.encode(each.worst)
            for output in OUTPUTS
            for each in accuracies[::-1]
            if each.output == output
        },
        **{error.metric: error.value for error in topic.errors},
        "top1_match": topic.top1_match,
        "top5_match": topic.top5_match,
        "top5": [schema.encode(each.top5) | {"image": each.image} for each in topic.embeddings if each.top5],
        "inferences": [schema.encode(each) for each in topic.outputs],
        "latency": schema.encode(figures.latency) if figures else {},
        "latency_ms": figures and figures.latency.avg_latency_ms,
        "best_throughput_ips": best and best.timed and best.timed.figures.throughput_ips,
        "best_batch_size": best and best.batch_size,
        "batches": [_batch(row) for run in topic.group.of("perf")[-1:] for row in run.all(Perf)],
        "speedup": speedup and speedup.speedup,
        "baseline_latency_ms": speedup and speedup.baseline_latency_ms,
        "baseline_threads": speedup and speedup.baseline_threads,
        **cause,
        "commands": list(topic.commands),
        "judged_by": topic.judged_by,
        "plots": dict(topic.plots),
        "scoring": scoring_of(topic),
    }


def _batch(row: Perf) -> dict[str, Any]:
    return {key: value for key, value in schema.encode(row).items() if key not in ("fingerprint", "image_sha256")}


def _cause(topic: Topic) -> Mapping[str, str | None]:
    """What was found of the error's cause, and what helps, in both languages; nothing where nobody asked."""
    causes = [cause for run in topic.explained for cause in run.all(Cause)]
    if not causes:
        return {}
    try:
        found, advice = conclude_causes(causes), advise(causes, topic.model.numerics)
    except UnjudgeableError:
        return {}
    return {
        "cause": found.en,
        "cause_zh": found.zh,
        "advice": advice and advice.en,
        "advice_zh": advice and advice.zh,
    }


OF_MODEL = (
    *("model", "library", "architecture", "params", "classifier", "weights_source", "weights_sha256", "dtype"),
    *("numerics", "input_size", "embedding_is", "hub", "revision"),
)
LISTS = ("hardware", "fallbacks", "images", "top5", "inferences", "batches", "commands")
OBJECTS = ("structure", "packages", "metrics", "latency", "plots", "scoring")
# What is None where there is no encoder to tell of, or the logs do not say.
NAMES = (
    *OF_MODEL,
    *("params_text", "output_shape", "weights_url", "preprocess", "gflop_per_image"),
    *("device", "device_name", "device_count", "cpu_threads", "simulated", "real_npu"),
    *("cann", "npu_driver", "python", "platform", "cpu_model"),
    *("samples", "threshold", "relative_error", "relative_l2", "top1_match", "top5_match"),
    *("latency_ms", "best_throughput_ips", "best_batch_size", "speedup", "baseline_latency_ms", "baseline_threads"),
    *("cause", "cause_zh", "advice", "advice_zh", "judged_by"),
)
