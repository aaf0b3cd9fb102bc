"""What is said in a published port: all that the reference pages say, nothing that the evidence does not, no markup."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from helpers.forks import Forks, needs_simulated_npu
from helpers.hostile import HOSTILE, assert_same_structure, complete, explained, on_device, poisoned, with_all
from helpers.logs import Edit, Records, drop, find, read_records
from helpers.npu_runs import ACCURACY, VIT
from helpers.ports import STEMS, Publish, files_in, logs_in, publisher, read
from huggingface_hub import ModelCard
from PIL import Image

import check_accuracy_run_perf as checker
from common.errors import UserError
from common.log.framing import printable
from common.publish import screenshot
from common.report import hardware, named
from common.verdict.evidence import Judgement, Verdict

BOTH = ("README.md", "README.en.md")
REASONS = ("README_FAIL_REASON.md", "README_FAIL_REASON.en.md")
A3 = {"device": "npu:0", "device_name": "Ascend910_9362", "simulated": False, "torch_npu": "2.9.0", "cann": "8.5.1"}
GIANT = "timm/vit_giant_patch14_clip_224.laion2b"
SIZES = {"patch_size": 14, "layers": 40, "hidden_size": 1408, "intermediate_size": 6144, "attention_heads": 16}


@pytest.fixture
def publish(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Publish:
    return publisher(tmp_path, capsys, monkeypatch)


def with_top5(records: Records) -> None:
    """The largest outputs of both sides, as a run records them."""
    for sample in records:
        if sample["event"] == "sample" and sample["output"] == "embedding":
            entries = [{"index": 980 - at, "value": 9.5 - at, "label": None} for at in range(5)]
            sample.update(reference_top5=entries, device_top5=[dict(entry) for entry in entries])
            sample.update(top5_match=1.0, top1_gap=0.0)
            for summary in records:
                if summary["event"] == "accuracy" and summary["output"] == "embedding":
                    summary.update(top5_match=1.0, top1_gap=0.0)


def of_giant(model: str = GIANT, hub: str = "modelscope", **env: Any) -> Edit:
    """As of a run on an NPU of the weights on a hub."""

    def edit(records: Records) -> None:
        on_device(**(A3 | env))(records)
        find(records, "env").update(allow_hf32={"conv": False, "matmul": False}, fallback_disabled=True)
        find(records, "model").update(
            model=model, weights_source=model, hub=hub, structure=SIZES, embedding_is="CLS token"
        )
        find(records, "run_start")["argv"] = ["--device", "npu"]
        with_top5(records)

    return edit


def after(*edits: Edit) -> Edit:
    def edit(records: Records) -> None:
        for each in edits:
            each(records)

    return edit


def on_npu(folder: Path, edit: Edit | None = None) -> Path:
    """Logs with all that a run on an NPU may say."""
    plain = edit or of_giant()
    return logs_in(folder, accuracy=after(plain, explained), benchmark=after(plain, with_all), inference=plain)


# ------------------------------------------------------------------------------------------- what the references have
# Every figure, section and file of the two reference pages, and how ours has it. What the records can't know (the data
# that a model was trained on, its paper) is behind the link to the page of its weights.
FIRST = {
    "title: model, on Ascend NPU": rf"^# {re.escape(GIANT)} .*昇腾 NPU（Ascend910_9362",
    "1 简介": r"^## 简介$",
    "original model's URL": rf"\(https://www\.modelscope\.cn/models/{re.escape(GIANT)}\)",
    "architecture": r"^\| 架构 \| \w+ \|$",
    "parameters": r"^\| 参数量 \| [\d.]+M \|$",
    "input": r"^\| 单张图像的输入 \| `\[3, 224, 224\]` \|$",
    "output": r"^\| 输出（embedding） \| `\[1, 1000\]` \|$",
    "2 验证环境": r"^## 验证环境$",
    "NPU": r"^\| 设备 \| npu:0: Ascend910_9362 \|$",
    "CANN": r"^\| CANN \| 8\.5\.1 \|$",
    "Python": r"^\| Python \| 3\.\d+\.\d+ \|$",
    "PyTorch": r"^\| torch \| [\d.]+",
    "torch_npu": r"^\| torch_npu \| 2\.9\.0 \|$",
    "timm": r"^\| timm \| [\d.]+ \|$",
    "env_check.log": r"\]\(logs/env_check\.log\)",
    "3 推理运行": r"^## 推理运行$",
    "pip install": r"^pip install .*-r requirements\.txt$",
    "python inference.py": r"^python inference\.py --device npu$",
    "Model:": rf"^Model: {re.escape(GIANT)}$",
    "Input shape:": r"^Input shape: \[1, 3, 224, 224\]$",
    "Output shape:": r"^Output shape: \[1, 1000\]$",
    "Output dtype:": r"^Output dtype: torch\.float32$",
    "Top-5 outputs": r"^Top-5 outputs \(index, value\):$",
    "five of them": r"^  5\. index=\d+, value=-?\d+\.\d{6}",
    "inference.log": r"\]\(logs/inference\.log\)",
    "4 精度验证": r"^## 精度验证$",
    **{key: rf"^\| {key} \| " for key in ("max_abs_error", "mean_abs_error", "relative_error", "cosine_similarity")},
    "threshold": r"^\| threshold \| 1\.0%",
    "result": r"^\| result \| (PASS|FAIL)",
    "where the error comes from": r"^## 误差分析$",
    "CPU and NPU have the same top 5": r"^- Top-5 一致（Top-5 match）：True",
    "5 性能参考": r"^## 性能参考$",
    **{
        key: rf"^\|.* {key} \|"
        for key in (
            *("avg_latency_ms", "min_latency_ms", "max_latency_ms", "p50_latency_ms", "p90_latency_ms"),
            *("p95_latency_ms", "throughput_ips"),
        )
    },
    "conditions": r"^测试条件：batch_size 1 时，\d+ 次预热后计时 \d+ 次，输入 `\[1, 3, 224, 224\]`。$",
    "benchmark.log": r"\]\(logs/benchmark\.log\)",
    "6 精度评测说明": r"^## 精度评测说明$",
    "no evaluation on a validation set": r"不是完整验证集上的精度评测",
    "7 自验证截图": r"^## 自验证截图$",
    "environment, in short": r"^- 环境： npu:0 Ascend910_9362",
    "inference, in short": r"^- 推理： 输出 `\[1, 1000\]`, .*Top-5 match=True$",
    "accuracy, in short": r"^- 精度.*relative_error=.*cosine_similarity=",
    "performance, in short": r"^- 性能： avg_latency=[\d.]+ ms, throughput=[\d.]+",
    "8 日志文件": r"^## 日志文件$",
    "accuracy.log": r"\]\(logs/accuracy\.log\)",
    "9 注意事项": r"^## 注意事项$",
    "size of the weights, which are fetched": r"权重（float32 约 [\d.]+ GB）在脚本首次需要时自动下载",
    "what the output is": r"^- embedding 的含义：",
    "10 标签": r"^## 标签$",
    "#NPU #Ascend and more": r"#NPU #Ascend #Ascend910_9362 #A3 #910C #timm #\w+$",
}
SECOND = {
    "architecture, sizes": r"^\| 架构 \| ",
    "parameters": r"^\| 参数量 \| ",
    "Patch 大小": r"^\| Patch 大小 \| 14 \|$",
    "层数": r"^\| 层数 \| 40 \|$",
    "隐藏维度": r"^\| 隐藏维度 \| 1408 \|$",
    "中间维度": r"^\| 中间维度 \| 6144 \|$",
    "注意力头": r"^\| 注意力头 \| 16 \|$",
    "training and paper": r"\]\(https://huggingface\.co/facebook/webssl-mae700m-full2b-224\)，其训练方法与论文",
    "transformers' version": r"^\| transformers \| [\d.]+ \|$",
    "hardware, cards": r"^\| 可见设备数 \| \d+ \|$",
    "mirror": r"export HF_ENDPOINT=https://hf-mirror\.com",
    "features in Python": r"^features = load_file\(",
    "NMSE of both outputs": r"^\| nmse \| [\d.e-]+% \| [\d.e-]+% \|$",
    "which output is the CLS token": r"^\| embedding 的含义 \| ",
    "conclusion": r"结论：\*\*PASS\*\*",
    "cause of the error": r"^原因：",
    "batch table: CPU": r"^\| cpu \(float32\) \| 1 \| [\d.]+ \| - \|$",
    "batch table: NPU": r"^\| npu:0 \(float32\) \| 2 \| [\d.]+ \| [\d.]+ \|$",
    "speed-up": r"^加速比：\*\*[\d.]+x\*\*",
    "best batch size": r"^\| 最佳吞吐量 \| .*batch \d",
    "scripts": r"^\| accuracy_run_perf\.py \| ",
    **{
        f"command: {script}": rf"^python {script}\.py"
        for script in ("accuracy_run", "accuracy_run_perf", "check_accuracy_run_perf")
    },
    "files": r"^README\.md$",
    "citation": r"^@misc\{",
}
ORDER = (
    "简介",
    "验证环境",
    "推理运行",
    "精度验证",
    "性能参考",
    "精度评测说明",
    "自验证截图",
    "日志文件",
    "注意事项",
    "标签",
)


def test_all_that_the_first_reference_has(publish: Publish, tmp_path: Path) -> None:
    assert publish(on_npu(tmp_path / "logs")).code == 0
    page = read(tmp_path / "port")
    assert [name for name, pattern in FIRST.items() if not re.search(pattern, page, re.MULTILINE)] == []
    headings = [heading for heading in re.findall(r"^## (.*)$", page, re.MULTILINE) if heading in ORDER]
    assert headings == list(ORDER)
    assert {f"logs/{name}.log" for name in ("env_check", *STEMS)} <= files_in(tmp_path / "port")


def test_all_that_the_second_reference_has(publish: Publish, tmp_path: Path) -> None:
    edit = of_giant("facebook/webssl-mae700m-full2b-224", "huggingface")
    assert publish(on_npu(tmp_path / "logs", edit)).code == 0
    page = read(tmp_path / "port")
    assert [name for name, pattern in SECOND.items() if not re.search(pattern, page, re.MULTILINE)] == []
    scripts = {f"{name}.py" for name in ("inference", "accuracy_run", "accuracy_run_perf", "check_accuracy_run_perf")}
    assert scripts <= files_in(tmp_path / "port")
    assert json.loads(read(tmp_path / "port", "defaults.json")) == {
        "model": "facebook/webssl-mae700m-full2b-224",
        "hub": "huggingface",
    }


# ----------------------------------------------------------------------------------- what is claimed, and of what
def card_of(page: str) -> dict[str, Any]:
    """The front matter, as Hugging Face's own library reads it."""
    data: dict[str, Any] = ModelCard(page).data.to_dict()
    assert data == yaml.safe_load(page.split("---")[1])
    return data


def test_an_npu_is_named_so_that_it_is_found(publish: Publish, tmp_path: Path) -> None:
    publish(on_npu(tmp_path / "logs"))
    for name in BOTH:
        card = card_of(read(tmp_path / "port", name))
        assert card["hardware"] == "NPU"
        assert card["tags"] == ["NPU", "Ascend", "Ascend910_9362", "A3", "910C", "timm"]
        assert card["base_model"] in (GIANT, [GIANT])
    assert f"<https://www.modelscope.cn/models/{GIANT}>" in read(tmp_path / "port", "SUBMISSION.md")
    assert "#NPU #Ascend" in read(tmp_path / "port", "SUBMISSION.md")
    scores = json.loads(read(tmp_path / "port", "scoring.json"))
    assert scores["weights_url"] == f"https://www.modelscope.cn/models/{GIANT}"
    assert isinstance(scores["npu_latency_ms"], float)


@pytest.mark.parametrize(
    ("edit", "latency"),
    [
        (lambda records: None, "cpu_latency_ms"),
        (on_device(**{**A3, "simulated": True}), "simulated_latency_ms"),
        (on_device(**{**A3, "device_name": "Ascend910B-SIM"}), "simulated_latency_ms"),
    ],
)
def test_a_cpu_and_a_simulation_are_published_as_what_they_are(
    edit: Edit, latency: str, publish: Publish, tmp_path: Path
) -> None:
    assert publish(logs_in(tmp_path / "logs", accuracy=edit, benchmark=edit, inference=edit)).code == 0
    for name in BOTH:
        page = read(tmp_path / "port", name)
        title, tags = re.findall(r"^# (.*)$", page, re.MULTILINE)[0], page.rstrip().splitlines()[-1]
        assert not re.search("NPU|Ascend|910|昇腾", json.dumps(card_of(page)) + title + tags)
    assert not re.search("NPU|Ascend|910|昇腾", read(tmp_path / "port", "SUBMISSION.md"))
    scores = json.loads(read(tmp_path / "port", "scoring.json"))
    assert latency in scores
    assert "npu_latency_ms" not in scores


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Ascend910_9362", ("A3", "910C")),
        ("Ascend910_9391", ("A3", "910C")),
        ("Ascend910B4", ("A2", "910B")),
        ("Ascend910B2C", ("A2", "910B")),
        ("Ascend910B4-1", ("A2", "910B")),
        ("Ascend310P3", ("310P", "310")),
        ("Ascend310B1", ("310B", "310")),
        ("Ascend910A", ("910",)),
        ("Ascend910B", ("910",)),
        ("Ascend950PR", ()),
        ("Ascend910", ()),
        ("Ascend910B4\n", ()),
        ("xAscend910B4", ()),
        ("AMD EPYC", ()),
    ],
)
def test_what_an_ascend_is_called(name: str, words: tuple[str, ...]) -> None:
    assert hardware.words_for(name) == words


# ------------------------------------------------------------------------------------------------------ the scores
def scores_of(publish: Publish, folder: Path, accuracy: Edit, *flags: str) -> dict[str, Any]:
    publish(logs_in(folder / "logs", accuracy=accuracy), *flags)
    found: dict[str, Any] = json.loads(read(folder / "port", "scoring.json"))
    page = read(folder / "port")
    for key, value in found.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        assert f"\n{key}: {shown}\n" in page
    return found


def test_the_scores_are_the_records_figures(publish: Publish, tmp_path: Path) -> None:
    scores = scores_of(publish, tmp_path, with_top5)
    records = read_records(tmp_path / "logs" / "accuracy.log")
    summary = find(records, "accuracy", output="embedding")
    assert (scores["max_abs_diff"], scores["mean_abs_diff"]) == (summary["max_abs_error"], summary["mean_abs_error"])
    assert scores["cosine_similarity"] == summary["cosine_similarity"]
    assert scores["weights_sha256"] == find(records, "model")["weights_sha256"]
    perf = find(read_records(tmp_path / "logs" / "benchmark.log"), "perf", batch_size=1)
    assert scores["cpu_latency_ms"] == perf["avg_latency_ms"]
    named = ("pretrained_used", "local_weight_used", "top1_match", "top5_match", "match_within_1_percent")
    assert [scores[name] for name in named] == [True, False, True, True, True]
    assert (scores["accuracy_log"], scores["performance_log"]) == ("logs/accuracy.log", "logs/benchmark.log")
    assert "||y - r|| / ||r|| <= 1%" in scores["match_basis"]


def with_error(share: float) -> Edit:
    """A consistent log whose hidden state is off by this relative L2; its NMSE is the square."""

    def edit(records: Records) -> None:
        for record in records:
            if record.get("output") == "hidden_state" and record["event"] in ("sample", "accuracy"):
                record.update(relative_l2=share, nmse=share * share, sqnr_db=-20 * math.log10(share))
                record.update(worst_token_relative_l2=share) if "worst_token" in record else None
                record.update(threshold=0.05) if "threshold" in record else None

    return edit


@pytest.mark.parametrize(("share", "within"), [(0.0099, True), (0.0101, False), (0.04, False)])
def test_within_1_percent_is_the_gate_and_no_softer_one(
    share: float, within: bool, publish: Publish, tmp_path: Path
) -> None:
    """Where 5 % were allowed and passed, an NMSE of 0.16 % is no match within 1 %."""
    scores = scores_of(publish, tmp_path, with_error(share), "--threshold", "5")
    assert scores["verdict"] == "PASS"
    assert scores["match_within_1_percent"] is within


def other_first(records: Records) -> None:
    """The first two of one image change their places, and are all but tied."""
    with_top5(records)
    sample = find(records, "sample", output="embedding")
    sample["device_top5"][0], sample["device_top5"][1] = sample["device_top5"][1], sample["device_top5"][0]
    sample["top1_gap"] = find(records, "accuracy", output="embedding")["top1_gap"] = 1e-7


def test_a_first_place_that_changed_is_no_match(publish: Publish, tmp_path: Path) -> None:
    publish(logs_in(tmp_path / "logs", accuracy=other_first))  # its values are no longer in order: FAIL
    page = read(tmp_path / "port", "README_FAIL_REASON.en.md")
    assert "the top-5 are not the largest elements in their order" in page


# -------------------------------------------------------------------------------------------------- what failed
def test_after_a_fail_there_is_no_page_of_success(publish: Publish, tmp_path: Path) -> None:
    done = publish(logs_in(tmp_path / "logs", accuracy=explained), "--threshold", "1e-9")
    assert (done.code, done.verdict) == (1, "OVERALL: FAIL")
    there = files_in(tmp_path / "port")
    assert {*REASONS, "verdict.json", "screenshot.png", "logs/accuracy.log", "accuracy_run.py"} <= there
    assert not there & {*BOTH, "SUBMISSION.md", "scoring.json"}
    english, chinese = read(tmp_path / "port", REASONS[1]), read(tmp_path / "port", REASONS[0])
    assert "FAIL: embedding relative_l2 is " in english
    assert "| embedding relative_l2 |" in english
    assert "python check_accuracy_run_perf.py --threshold 1e-09" in english
    assert "- Cause: 99.9% of the squared error is HF32 in the convolutions and the tanh GELU." in english
    assert "Nothing was replaced by a fallback" in english
    assert "平方误差的 99.9% 来自卷积使用 HF32 与 GELU 的 tanh 近似" in chinese
    assert "没有任何回退或替代" in chinese


def test_operators_that_fell_back_are_named(publish: Publish, tmp_path: Path) -> None:
    def fell_back(records: Records) -> None:
        records.insert(-1, {"run": records[0]["run"], "seq": 0, "event": "fallback", "operators": ["aten::erf"]})

    publish(logs_in(tmp_path / "logs", accuracy=fell_back), "--threshold", "1e-9")
    assert "But these operators ran on the CPU: aten::erf" in " ".join(read(tmp_path / "port", REASONS[1]).split())


@needs_simulated_npu
def test_a_fault_is_named_with_its_cause_and_what_helps(tmp_path: Path, forks: Forks) -> None:
    """The tanh GELU of a simulated NPU's defaults, held to a bound that it misses."""
    logs, fast = tmp_path / "logs", ("--numerics", "fast", "--log-dir", tmp_path / "logs")
    done = forks.run(*ACCURACY, *VIT, *fast, "--explain", cwd=tmp_path, SIMULATED_NPU_GELU="tanh")
    assert done.code == 0, done.stderr
    flags = ("--only", "accuracy", "--allow-random-weights", "--threshold", "0.001")
    assert checker.main([str(logs), *flags, "--publish", str(tmp_path / "port")]) == 1
    page = read(tmp_path / "port", REASONS[1])
    assert "FAIL: embedding relative_l2 is " in page
    assert re.search(r"^- Cause: .*the tanh GELU", page, re.MULTILINE)
    assert "- What helps: --numerics strict removes it." in page
    assert "python accuracy_run.py --device npu" in page
    assert (tmp_path / "port" / "tests" / "simulated_npu" / "torch_npu" / "__init__.py").is_file()


@pytest.mark.parametrize(
    ("logs", "said"),
    [("nowhere", "accuracy.log can't be read"), ("damaged", "records_sha256 does not fit")],
)
def test_what_can_not_be_judged_is_said(logs: str, said: str, publish: Publish, tmp_path: Path) -> None:
    folder = tmp_path / "nowhere"
    if logs == "damaged":
        folder = logs_in(tmp_path / "logs")
        path = folder / "benchmark.log"
        path.write_text(path.read_text().replace('"batch', '"batch ', 1).replace('"status":"ok"', '"status":"oom"', 1))
    done = publish(folder / "accuracy.log" if logs == "nowhere" else folder)
    assert done.code == 2
    assert said in " ".join(read(tmp_path / "port", REASONS[1]).split())
    assert not files_in(tmp_path / "port") & set(BOTH)


# ----------------------------------------------------------------------------------------------- nothing is markup
Texts = dict[str, str]


def texts_of(publish: Publish, folder: Path, text: str, verdict: Verdict, monkeypatch: pytest.MonkeyPatch) -> Texts:
    """All files of a port by their names, but for code, logs and pictures, where every text of the logs is this one."""
    monkeypatch.setattr(Judgement, "verdict", property(lambda self: verdict))
    first = {"accuracy": with_top5}
    poison = {stem: after(first.get(stem, lambda records: None), complete(stem), poisoned(text)) for stem in STEMS}
    publish(logs_in(folder / "logs", **poison), "--force", drawn=verdict is Verdict.PASS)
    names = [name for name in files_in(folder / "port") if not name.startswith(("common/", "logs/", "assets/"))]
    return {name: read(folder / "port", name) for name in names if not name.endswith(".png")}


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.FAIL])
def test_no_text_of_a_log_has_an_effect_in_any_file(
    verdict: Verdict, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = texts_of(publish, tmp_path, "name", verdict, monkeypatch)
    for bad in HOSTILE:
        hostile = texts_of(publish, tmp_path, bad, verdict, monkeypatch)
        assert_harmless(hostile, plain)
        page = hostile["README.md" if verdict is Verdict.PASS else REASONS[0]]
        assert printable(bad).strip()[:3] in page or "&" in page
    with Image.open(tmp_path / "port" / "screenshot.png") if verdict is Verdict.PASS else nullcontext() as image:
        assert image is None or image.width == screenshot.WIDTH


def assert_harmless(hostile: Texts, plain: Texts) -> None:
    assert hostile.keys() == plain.keys()
    for name, text in hostile.items():
        assert all(character.isprintable() or character == "\n" for character in text), name
        if name.endswith(".md"):
            front = "" if text.startswith("---\n") else "---\n---\n"
            assert_same_structure(front + text, front + plain[name])
        if name.endswith(".json"):
            assert json.loads(text)
        if name in ("constraints.txt", ".gitignore"):
            assert len(text.splitlines()) <= len(plain[name].splitlines())
    assert hostile["screenshot.txt"].isascii()


# --------------------------------------------------------------------------------------------------- the screenshot
def test_the_screenshot_shows_the_verdict_the_runs_and_their_hashes(publish: Publish, tmp_path: Path) -> None:
    done = publish(logs_in(tmp_path / "logs"), drawn=True)
    text = read(tmp_path / "port", "screenshot.txt")
    assert text.splitlines()[0] == "$ python check_accuracy_run_perf.py"
    assert done.stdout in text
    for stem in STEMS:
        end = find(read_records(tmp_path / "logs" / f"{stem}.log"), "run_end")
        assert end["run"] in text
        assert end["records_sha256"] in text
    with Image.open(tmp_path / "port" / "screenshot.png") as image:
        assert image.width == 1600  # twice the pixels of the width at which it is read
        assert len(image.convert("L").getcolors() or []) > 20


@pytest.mark.parametrize("line", ["x" * 100, "OVERALL: PASS", "W" * 100])
def test_the_widest_line_fits(line: str) -> None:
    with Image.open(io.BytesIO(screenshot.draw([line, "x"]))) as image:
        grey = image.convert("L")
        margin = grey.crop((grey.width - 16, 0, grey.width, grey.height))
        assert len(margin.getcolors() or []) == 1
        assert len(grey.getcolors() or []) > 5


def test_a_screenshot_is_of_bounded_size() -> None:
    with Image.open(io.BytesIO(screenshot.draw(["x"] * 10_000))) as image:
        assert image.height < 4000


# --------------------------------------------------------------------------------------------- templates of one's own
def filled(publish: Publish, folder: Path, template: str, *flags: str) -> str:
    (folder / "page.md.j2").write_text(template, encoding="utf-8")
    publish(on_npu(folder / "logs"), "--template", str(folder / "page.md.j2"), *flags)
    return read(folder / "port", "page.md")


def test_a_template_of_ones_own_is_filled_with_the_same_facts(publish: Publish, tmp_path: Path) -> None:
    template = (
        "{{ front_matter }}\n# {{ model }} on {{ hardware | join(' ') }}: {{ verdict }}\n\n"
        "| {{ packages.torch }} | {{ scoring.match_within_1_percent }} | {{ relative_l2 | percent }} |\n\n"
        "{% for row in batches %}{{ row.batch_size }} {% endfor %}\n\n## 5\n\n{{ section('性能参考') }}\n"
    )
    page = filled(publish, tmp_path, template)
    assert page.startswith("---\nlibrary_name: timm\n")
    assert f"\n# {GIANT} on A3 910C: PASS\n" in page
    assert "\n1 2 \n" in page
    assert "| avg_latency_ms |" in page.split("## 5")[1]
    assert (tmp_path / "port" / "README.md").is_file()


def test_a_template_can_be_the_readme(publish: Publish, tmp_path: Path) -> None:
    (tmp_path / "README.md.j2").write_text("# {{ model }}\n")
    publish(on_npu(tmp_path / "logs"), "--template", str(tmp_path / "README.md.j2"))
    assert read(tmp_path / "port") == f"# {GIANT}\n"


def test_a_template_goes_with_a_report_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.html.j2").write_text("<p>{{ verdict }}</p>")
    logs = logs_in(tmp_path / "logs")
    checker.main([str(logs), "--report", str(tmp_path / "r"), "--template", str(tmp_path / "mine.html.j2")])
    assert read(tmp_path / "r", "mine.html") == "<p>PASS</p>\n"
    with pytest.raises(SystemExit):
        checker.main([str(logs), "--template", str(tmp_path / "mine.html.j2")])
    assert "--template needs --publish DIR or --report DIR" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("a\n{{ nothing }}", ", line 2: 'nothing' is undefined"),
        ("{% if nothing is none %}{% endif %}", ", line 1: 'nothing' is undefined"),
        ("{{ scoring.nothing }}", "nothing"),
        ("{{ section('nothing') }}", "the pages have no section 'nothing', but Model, "),
        ("{{ model | nothing }}", "No filter named 'nothing'"),
        ("{% for %}", ", line 1: "),
        ("{{ model + 1 }}", "line 1: "),
        ("{{ 1 / 0 }}", "line 1: division by zero"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ section.__globals__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os }}", "unsafe"),
        ("{{ tags.append('x') }}", "unsafe"),
        ("{% for x in range(10 ** 9) %}{% endfor %}", "Range too big"),
    ],
)
def test_what_a_template_may_not_is_one_line(
    template: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from common.report import plots

    monkeypatch.setattr(plots, "draw_all", lambda group: {})
    (tmp_path / "page.md.j2").write_text(template)
    flags = ("--report", str(tmp_path / "r"), "--template", str(tmp_path / "page.md.j2"))
    with pytest.raises(UserError) as raised:
        checker.main([str(logs_in(tmp_path / "logs")), *flags])
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "r").exists()


def test_a_wrong_template_ends_the_program_in_one_line(tmp_path: Path) -> None:
    """Nothing is written, there is no verdict, and no traceback."""
    logs = logs_in(tmp_path / "logs")
    (tmp_path / "page.md.j2").write_text("\n{{ nothing }}")
    command = [sys.executable, ROOT / "check_accuracy_run_perf.py", logs, "--publish", "p", "--template", "page.md.j2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: the template page.md.j2, line 2: 'nothing' is undefined\n"
    assert "OVERALL" not in done.stdout
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("bad", HOSTILE)
def test_a_value_in_a_template_of_ones_own_is_escaped(bad: str, publish: Publish, tmp_path: Path) -> None:
    template = "# {{ model }}\n\n{{ device_name }}\n\n| a |\n| --- |\n| {{ images[0] }} |\n"
    pages = {}
    for kind, text in (("plain", "name"), ("hostile", bad)):
        (tmp_path / "page.md.j2").write_text(template)
        edit = poisoned(text)
        checker.main(
            [
                str(logs_in(tmp_path / kind, accuracy=edit, benchmark=edit, inference=edit)),
                *("--report", str(tmp_path / "r"), "--template", str(tmp_path / "page.md.j2")),
            ]
        )
        pages[kind] = "---\n---\n" + read(tmp_path / "r", "page.md")
    assert_same_structure(pages["hostile"], pages["plain"])


@pytest.mark.parametrize("logs", ["whole", "none", "no accuracy", "without records"])
def test_every_name_is_there_whatever_the_logs_hold(logs: str, tmp_path: Path) -> None:
    """And is documented, with all others."""
    documented = set(re.findall(r"`(\w+)`", template_table()))
    names = {*named.facts_of_nothing(), "front_matter", "section"}
    assert documented == names
    template = "".join(f"{{{{ {name} }}}}\n" for name in sorted(names - {"section"}))
    (tmp_path / "page.md.j2").write_text(template)
    folder = tmp_path / "logs"
    if logs != "none":
        edit = drop("numerics") if logs == "without records" else lambda records: None
        logs_in(folder, accuracy=edit)
    if logs == "no accuracy":
        (folder / "accuracy.log").write_text((folder / "inference.log").read_text())
    flags = ("--report", str(tmp_path / "r"), "--template", str(tmp_path / "page.md.j2"))
    checker.main([str(folder / "accuracy.log"), str(folder / "benchmark.log"), *flags])
    assert read(tmp_path / "r", "page.md").count("\n") >= len(names) - 1


def template_table() -> str:
    """The table of names in the docs."""
    text = (ROOT / "docs" / "publish.md").read_text(encoding="utf-8")
    rows = text.split("| name | holds |\n", 1)[1].split("\n\n", 1)[0].splitlines()
    return "\n".join(row.split("|")[1] for row in rows[1:])
