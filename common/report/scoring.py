"""The fields by which a published port is scored, under the names that published ones give them, from records alone.

They follow the checker's gate: no field is true that the verdict would not bear out. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from common.log.events import OUTPUTS, Accuracy
from common.log.formulas import GATED_METRICS, is_within, worst_metrics
from common.report.facts import Topic
from common.verdict.evidence import Verdict, worst_verdict

ONE_PERCENT = 0.01
BASIS = (
    "mean|y - r| / mean|r| <= 1% and ||y - r|| / ||r|| <= 1% ({metrics}), the worst image, of {outputs}; y: {device}, "
    "r: {references} on the CPU; nothing NaN or infinite{classes}; and the checker's accuracy verdict is PASS"
)


def scoring_of(topic: Topic) -> dict[str, Any]:
    """Figures are of the embedding, each the worst of all images, against the first reference; unrounded, None where
    there is none. Of a device that is no NPU the times do not say that it is.
    """
    model, env = topic.model, topic.env
    accuracies = [event for run in topic.group.of("accuracy") for event in run.all(Accuracy)]
    samples = topic.embeddings
    worst = worst_metrics([sample.metrics for sample in samples]) if samples else None
    checks = [check for check in topic.group.checks if check.about == "accuracy"]
    within = [
        is_within(each.worst, each.nonfinite, ONE_PERCENT, model.classifier and each.output == "embedding")
        for each in accuracies
    ]
    random = model.weights_source == "random"
    timed = f"{'simulated' if env.is_simulated else env.kind}_"
    return {
        "verdict": str(topic.group.verdict),
        "model": model.model,
        "reference": f"cpu {' and '.join(_unique(each.reference for each in accuracies))}".strip(),
        "adapted": f"{env.device} {env.device_name} {model.dtype}",
        "simulated": env.is_simulated,
        "pretrained_used": not random,
        "local_weight_used": topic.weights_are != "to be had",
        "weights_id": model.weights_source,
        "weights_url": topic.weights_url,
        "weights_sha256": model.weights_sha256,
        "samples": len({sample.image_sha256 for sample in samples}),
        "max_abs_diff": worst and worst.max_abs_error,
        "mean_abs_diff": worst and worst.mean_abs_error,
        "relative_error": worst and worst.relative_error,
        "relative_l2": worst and worst.relative_l2,
        "cosine_similarity": worst and worst.cosine_similarity,
        "top1_match": topic.top1_match,
        "top5_match": topic.top5_match,
        "match_within_1_percent": bool(within) and all(within) and worst_verdict(checks) is Verdict.PASS,
        "match_basis": BASIS.format(
            metrics=", ".join(GATED_METRICS),
            outputs=" and ".join(OUTPUTS),
            device=env.device,
            references=" and ".join(_unique(each.reference for each in accuracies)),
            classes="; the first class kept" if model.classifier else "",
        ),
        f"{timed}latency_ms": topic.alone and topic.alone.timed and topic.alone.timed.figures.latency.avg_latency_ms,
        f"{timed}throughput_ips": topic.best and topic.best.timed and topic.best.timed.figures.throughput_ips,
        "accuracy_log": _logs_of(topic, "accuracy"),
        "performance_log": _logs_of(topic, "perf"),
    }


def _logs_of(topic: Topic, kind: str) -> str | None:
    return ", ".join(_unique(topic.path_of(run) for run in topic.group.of(kind))) or None


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
