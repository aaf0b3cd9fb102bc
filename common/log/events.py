"""The events of a run, each declared once: what a script writes, the reader gives back and the pages show.

A record is one event (see `schema` for what a declaration can say). Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

from common.log.schema import FLAT, OPTIONAL, Integers, Numbers, OneOf

INFERENCE, ACCURACY, PERF = "inference.py", "accuracy_run.py", "accuracy_run_perf.py"
SCRIPTS = (INFERENCE, ACCURACY, PERF)

# What an encoder gives, in the order in which its module gives them.
OUTPUTS = ("embedding", "hidden_state")
DTYPES = ("float32", "float16", "bfloat16")
# What an encoder is made of, beside its stages by their numbers; the last is the whole.
KINDS = (
    *("patch_embed", "stem", "attention", "mlp", "norm", "activation", "convolution", "projection", "head"),
    "forward",
)
OPERATORS = ("matmul", "conv", "attention", "other")  # whose operations are counted

EAGER, COMPILED = "eager", "compile:"  # how an encoder is run: as it is, or by a backend, whose name follows

Output = Annotated[str, OneOf(OUTPUTS)]
Dtype = Annotated[str, OneOf(DTYPES)]
FEATURES = "features"  # as a reference: what a file of inference.py holds
Reference = Annotated[str, OneOf(("float32", "float64", FEATURES))]
Status = Annotated[str, OneOf(("ok", "oom", "error"))]
Mode = Annotated[
    str | None, OPTIONAL, "`eager`, or `compile:` and a backend of `torch.compile`; earlier logs have one mode"
]
Gelu = OneOf(("erf", "tanh", "other"))
# By what an encoder is judged on its task: by its own classes, by a vote of nearest neighbours, by the nearest alone.
CLASSES, KNN, NEAREST = "classes", "knn", "nearest"
TASKS = (CLASSES, KNN, NEAREST)
# A few numbers of an embedding, by which it is recognised within tolerance. Of one that is not finite none may be.
Fingerprint = list[float | None]

T = TypeVar("T")


class Event:
    """What a record holds. `event` is its name, `scripts` those that write it; a docstring begins with: one per what.

    The docs' table of events is made from these declarations.
    """

    event: ClassVar[str]
    scripts: ClassVar[Sequence[str]]
    compact: ClassVar[bool]  # its long lists are Numbers and Integers, which take as little memory as their text

    def __init_subclass__(cls, scripts: Sequence[str] = SCRIPTS, compact: bool = False) -> None:
        cls.event = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()
        cls.scripts, cls.compact = scripts, compact
        DECLARED[cls.event] = cls


DECLARED: dict[str, type[Event]] = {}


@dataclass_transform(frozen_default=True, kw_only_default=True)
def declare(cls: type[T]) -> type[T]:
    """A declaration: a frozen dataclass whose fields are given by name."""
    return dataclass(frozen=True, kw_only=True)(cls)


class Case(NamedTuple):
    """What is timed: an encoder in a mode, at a batch size. As a text it is its name in the lines of a log."""

    mode: str
    batch_size: int

    @property
    def label(self) -> str:
        return str(self.batch_size) + ("" if self.mode == EAGER else f" {self.mode}")

    def __str__(self) -> str:
        return f"batch {self.label}"


# ---------------------------------------------------------------------------------------------- the run and its machine
@declare
class Plan:
    """What a performance run sets out to measure."""

    batch_sizes: Annotated[list[int], "to measure"]
    ranks: Annotated[int, "processes that run together"]
    backends: Annotated[
        list[str] | None, OPTIONAL, "of `torch.compile`, to measure beside eager; none named: the device's own"
    ] = None
    auto: Annotated[bool | None, OPTIONAL, "further batch sizes are those of the `search`"] = None


@declare
class RunStart(Event):
    """run, first of all"""

    format: Annotated[int, "the log's version"]
    script: Annotated[str, "by its file name"]
    argv: Annotated[list[str], "its arguments, paths by their last part"]
    utc: Annotated[str, "ISO 8601"]
    code_sha256: Annotated[str, "of the scripts and of `common/`"]
    git: Annotated[str | None, "commit, `+dirty` after local changes"]
    plan: Annotated[Plan | None, FLAT, "of a perf run"] = None


@declare
class RunEnd(Event):
    """run, last of all"""

    records: Annotated[int, "how many precede it"]
    records_sha256: Annotated[str, "SHA-256 of their JSON texts, each followed by a newline"]
    status: Annotated[str, "`complete` or `error`"]
    error: Annotated[str | None, OPTIONAL, "what ended the run"] = None


@declare
class Packages:
    """The versions of what computes; None for what is not installed."""

    torch: str | None
    torch_npu: str | None
    torchvision: str | None
    timm: str | None
    transformers: str | None
    modelscope: str | None
    safetensors: str | None
    numpy: str | None
    pillow: str | None


PACKAGES = tuple(Packages.__annotations__)


@declare
class Host:
    """The host side of a run's environment; None for what is not there."""

    python: Annotated[str, "version"]
    platform: str
    packages: Annotated[Packages, FLAT, "version"]
    cann: Annotated[str | None, "version"]
    npu_driver: Annotated[str | None, "version"]
    cpu_model: str | None
    cpu_count: Annotated[int | None, "logical CPUs of the machine"]
    cpu_quota: Annotated[float | None, "CPUs that the container may use at once"]
    task_queue_enable: Annotated[str | None, "`TASK_QUEUE_ENABLE`"]
    visible_devices: Annotated[str | None, "the variable that restricts the devices, `NAME=VALUE`"]


@declare
class AllowHf32:
    """torch_npu's switches, as they were in force."""

    conv: Annotated[bool, "whether convolutions may round to HF32"]
    matmul: Annotated[bool, "whether matrix products may"]


@declare
class Npu:
    """What only an NPU has."""

    allow_hf32: Annotated[AllowHf32, "the switches of `torch_npu`, as they were in force"]
    fallback_disabled: Annotated[bool, "measured: an operator without a kernel raises, and does not run on the CPU"]
    cube_math_type: Annotated[str | None, OPTIONAL, "`torch.npu.matmul.cube_math_type`; overrides `allow_hf32`"] = None
    compatible_impl: Annotated[str | None, OPTIONAL, "`TORCH_NPU_USE_COMPATIBLE_IMPL`, the user's"] = None
    jit_compile: Annotated[bool | None, OPTIONAL, "operators are compiled when they are first called"] = None


@declare
class Env(Event):
    """run"""

    host: Annotated[Host, FLAT]
    device: Annotated[str, "of the outputs, such as `npu:0`"]
    parameters_device: Annotated[str, "of the weights"]
    device_name: str
    simulated: Annotated[bool, "the device is a stand-in for tests"]
    device_count: Annotated[int, "visible devices of this kind; 0 of the CPU"]
    cpu_threads: Annotated[int, "that PyTorch computes with"]
    npu: Annotated[Npu | None, FLAT, "on an NPU"] = None

    @property
    def kind(self) -> str:
        """npu, cuda or cpu."""
        return self.device.partition(":")[0]

    @property
    def is_simulated(self) -> bool:
        """Whether the device is a stand-in for tests: by the record, or by any name in it."""
        return self.simulated or names_a_simulation(self.device_name, self.host.packages.torch_npu, self.host.cann)


def names_a_simulation(*names: str | None) -> bool:
    """Whether a device's name or a version says that the device is a stand-in for tests."""
    text = " ".join(map(str, names))
    return "SIM" in text or "simulated" in text


# Variables that ports set, and that nothing in torch_npu or CANN reads.
PLACEBOS = ("NPU_FP16_MATMUL", "STRONG_MEMORY_OPT")


@declare
class MachineSettings:
    """What stays as it is while a run lasts; None for what is not there."""

    variables: Annotated[dict[str, str], "of the environment, those that change how long calls take, as they were set"]
    allocator: Annotated[str | None, "that `LD_PRELOAD` puts in the place of malloc, by its file name"]
    governor: Annotated[str | None, "of the first CPU's frequency"]
    frequency_driver: Annotated[str | None, "that the governor steers"]
    allow_internal_format: Annotated[bool | None, "torch_npu's, as it was in force; null where it does not say"]


@declare
class Machine(Event, scripts=[PERF]):
    """run and phase

    The state of the machine around the figures: what else it was busy with.
    """

    phase: Annotated[str, OneOf(("start", "end")), "before the weights are loaded, and after the last figure"]
    foreign_memory_mb: Annotated[
        float | None, "MiB of the device's memory in use that are no tensors of this process; null on the CPU"
    ]
    load_average: Annotated[float | None, "of the machine, over a minute: what ran or waited for a CPU"]
    own_load: Annotated[float | None, "what of it is this process, by its CPU time and age"]
    settings: Annotated[MachineSettings | None, FLAT, "at the start"] = None


@declare
class Probe:
    """What a device computes. Bits of a mantissa: 23 float32, 11 HF32, 10 TF32 and float16, 7 bfloat16."""

    conv_mantissa_bits: int
    matmul_mantissa_bits: int
    attention_mantissa_bits: int
    gelu: Annotated[str, Gelu, 'what GELU computes with `approximate="none"`']
    gelu_tanh: Annotated[str, Gelu, 'the same with `approximate="tanh"`']


@declare
class Numerics(Event):
    """run

    What the device was found to compute. Of a mantissa float32 keeps 23 bits, HF32 11, TF32 and float16 10, bfloat16 7.
    """

    probe: Annotated[Probe, FLAT]
    gelu_replaced: Annotated[bool, "GELU is not the device's native one"]
    gelu_by: Annotated[str | None, OPTIONAL, OneOf(("npu_gelu", "formula"))] = None
    reference: Annotated[Probe, "the same of the CPU in float32"]


@declare
class Fallback(Event):
    """run on an NPU, where operators fell back to the CPU"""

    operators: Annotated[list[str], "that ran on the CPU"]


# --------------------------------------------------------------------------------------------------------- the encoder
@declare
class Cost:
    """What one image costs."""

    gflop_per_image: Annotated[float, "1e9 floating-point operations, a multiplication and an addition being two"]
    gflop_by_operator: Annotated[dict[str, float], "of `matmul`, `conv`, `attention` and `other`"]


@declare
class Model(Event):
    """run"""

    model: Annotated[str, "as it was asked for, a folder by its last part"]
    library: Annotated[str, OneOf(("timm", "transformers"))]
    architecture: Annotated[str, "the library's name of it"]
    params: Annotated[int, "how many"]
    classifier: Annotated[bool, "its embedding is the logits of named classes"]
    weights_source: Annotated[str, "the hub's id, the path's last part, `random` or `demo`"]
    weights_sha256: Annotated[str | None, "of the file, or of the shards' hashes in the index's order"]
    missing_keys: Annotated[int, "of the encoder, that the weights lack"]
    unexpected_keys: Annotated[int, "of the weights, that the encoder lacks"]
    left_out_keys: Annotated[int, "of another part than the encoder, such as a task head"]
    dtype: Annotated[Dtype, "of the weights"]
    input_size: Annotated[list[int], "`[3, H, W]`"]
    preprocess: Annotated[dict[str, Any], "how images become pixel values"]
    numerics: Annotated[str, OneOf(("strict", "fast")), "what was asked for"]
    operators: Annotated[list[str], "of the kinds that are probed: `conv`, `matmul`, `attention`, `gelu`, `gelu_tanh`"]
    embedding_is: Annotated[str | None, OPTIONAL, "what of the model's the embedding is"] = None
    hub: Annotated[str | None, OPTIONAL, OneOf(("modelscope", "huggingface")), "that `model` is an id of"] = None
    revision: Annotated[str | None, OPTIONAL, "on that hub, where one was named"] = None
    asked_size: Annotated[int | None, OPTIONAL, "pixels a side, where `--input-size` named them"] = None
    structure: Annotated[
        dict[str, int] | None,
        OPTIONAL,
        "its sizes, those that its library names: `patch_size`, `layers`, `hidden_size`, `intermediate_size`, "
        "`attention_heads`",
    ] = None
    weights_changes: Annotated[list[str] | None, OPTIONAL, "what was done to the weights before they fitted"] = None
    references: Annotated[list[str] | None, OPTIONAL, "of an accuracy run: the precisions that it compares with"] = None
    compiled: Annotated[bool | None, OPTIONAL, "of a perf run of earlier versions: all of it by `torch.compile`"] = None
    cost: Annotated[Cost | None, FLAT, "of a perf run, where operations can be counted"] = None


@declare
class NonfiniteWeights(Event):
    """run whose output is not finite, where weights are not either"""

    tensors: Annotated[list[str], "with a NaN or infinity"]


# ---------------------------------------------------------------------------------------------------------- the images
@declare
class Skipped(Event):
    """image that was left out"""

    image: str
    reason: str


@declare
class Unread(Event):
    """run whose folders hold what was not read"""

    files: Annotated[int, "in its folders, that are no images by their names"]
    kinds: Annotated[dict[str, int], "of these by extension, the most frequent"]
    hidden_folders: Annotated[int, "not entered"]
    links_back: Annotated[int, "to a folder that they are in, not entered"]
    closed_folders: Annotated[dict[str, str], "that can't be searched, and why"]


@declare
class Animation(Event):
    """image with several frames, of which the first is taken"""

    image: str
    frames: Annotated[int, "how many"]


@declare
class Scaled(Event):
    """image with more than 8 bits a value, which was scaled to 8"""

    image: str
    mode: Annotated[str, "Pillow's"]
    black: Annotated[float, "the value that became 0"]
    white: Annotated[float, "the value that became 255"]


@declare
class Transparency(Event):
    """run with images that are not opaque, whose alpha was dropped"""

    images: Annotated[int, "how many"]
    image: Annotated[str, "the first"]


@declare
class TopEntry:
    """One of an image's largest outputs."""

    index: int
    value: float | None
    label: Annotated[str | None, "the class, where the model names it"]


@declare
class Inference(Event, scripts=[INFERENCE]):
    """image"""

    image: str
    image_sha256: str
    output_shape: Annotated[list[int], "`[1, D]`"]
    nonfinite: Annotated[int, "NaN and infinite outputs"]
    topk: Annotated[list[TopEntry], "the largest outputs"]


# ------------------------------------------------------------------------------------------------------------ accuracy
@declare
class Metrics:
    """How far an output y is from its reference r; None where a NaN or infinity leaves no number."""

    max_abs_error: Annotated[float | None, "`max |y - r|`"]
    mean_abs_error: Annotated[float | None, "`mean |y - r|`"]
    relative_error: Annotated[float | None, "`mean |y - r| / mean |r|`, a fraction"]
    relative_l2: Annotated[float | None, "`||y - r|| / ||r||`, a fraction"]
    nmse: Annotated[float | None, "`relative_l2` squared"]
    one_minus_cosine: Annotated[float | None, "keeps the digits that the cosine loses"]
    top1_gap: Annotated[float | None, "`max r - r[argmax y]`, as a fraction of the range of `r`"]
    cosine_similarity: float | None
    sqnr_db: Annotated[float | None, "dB: `-10 log10 nmse`; null without any error"]
    top5_match: Annotated[float | None, "fraction of the five largest elements that are the same"]


METRICS = tuple(Metrics.__annotations__)


@declare
class WorstToken:
    """The token with the largest error."""

    worst_token: Annotated[int, "with the largest error"]
    worst_token_relative_l2: float | None


@declare
class Top5:
    """The five largest elements of an embedding on both sides, the largest first."""

    reference_top5: Annotated[list[TopEntry], "the five largest elements of `r`"]
    device_top5: Annotated[list[TopEntry], "the five largest elements of `y`"]


@declare
class Sample(Event, scripts=[ACCURACY]):
    """image, output and reference, of the first 1,000 images

    How far the device's output `y` is from the reference `r`. A metric is null where NaN or infinities leave no number.
    """

    image: str
    image_sha256: str
    reference: Annotated[Reference, "the first two on the CPU, the last in a file of `inference.py`"]
    output: Output
    device: Annotated[str, "of the output"]
    dtype: Annotated[Dtype, "of the output"]
    shape: Annotated[list[int], "`[1, D]` or `[1, T, C]`"]
    metrics: Annotated[Metrics, FLAT]
    nonfinite: Annotated[int, "NaN and infinite elements of both"]
    fingerprint: Annotated[Fingerprint | None, OPTIONAL, "of an embedding: what a perf run's is recognised by"] = None
    worst: Annotated[WorstToken | None, FLAT, "of a `hidden_state`"] = None
    top5: Annotated[Top5 | None, FLAT, "of an embedding that is finite"] = None


@declare
class MetricColumns:
    """Those metrics of several images that the others follow from."""

    max_abs_error: Annotated[Numbers, "as in `sample`, of each image"]
    mean_abs_error: Annotated[Numbers, "as in `sample`, of each image"]
    relative_error: Annotated[Numbers, "as in `sample`, of each image"]
    relative_l2: Annotated[Numbers, "as in `sample`, of each image"]
    one_minus_cosine: Annotated[Numbers, "as in `sample`, of each image"]
    top1_gap: Annotated[Numbers, "as in `sample`, of each image"]
    top5_match: Annotated[Numbers, "as in `sample`, of each image"]


MEASURED = tuple(MetricColumns.__annotations__)


@declare
class WorstTokens:
    """The token with the largest error, of each image."""

    worst_tokens: Annotated[Integers, "with the largest error, of each image"]
    worst_token_relative_l2: Annotated[Numbers, "of each image"]


@declare
class Samples(Event, scripts=[ACCURACY], compact=True):
    """output and reference, of up to 1,000 images behind the first 1,000

    What `sample` is of one image, in lists that have a place for each. The other metrics follow from these.
    """

    first: Annotated[int, "the place of its first image among all that are compared, from 0"]
    digests: Annotated[str, "of each image the first 16 digits of its `image_sha256`, without a gap"]
    reference: Annotated[Reference, "the first two on the CPU, the last in a file of `inference.py`"]
    output: Output
    device: Annotated[str, "of the output"]
    dtype: Annotated[Dtype, "of the output"]
    shape: Annotated[list[int], "`[1, D]` or `[1, T, C]`"]
    metrics: Annotated[MetricColumns, FLAT]
    nonfinites: Annotated[Integers | None, OPTIONAL, "`nonfinite` of each image, where one is not 0"] = None
    worst: Annotated[WorstTokens | None, FLAT, "of a `hidden_state`"] = None


@declare
class Accuracy(Event, scripts=[ACCURACY]):
    """output and reference

    Each metric is its own worst of all samples: an error's largest, a similarity's smallest, and null before both.
    """

    output: Output
    reference: Annotated[Reference, "the first two on the CPU, the last in a file of `inference.py`"]
    samples: Annotated[int, "how many"]
    worst: Annotated[Metrics, FLAT]
    nonfinite: Annotated[int, "of all samples"]
    expected_relative_l2: Annotated[float | None, "what rounding to a 16-bit dtype is expected to cost"]
    threshold: Annotated[float, "the bound that was applied, a fraction"]
    result: Annotated[str, OneOf(("PASS", "FAIL"))]


@declare
class Repeat(Event, scripts=[ACCURACY]):
    """output and way

    The run's first image through the device once more: its output `y'` beside what it was at first, `y`.
    """

    way: Annotated[str, OneOf(("alone", "batch")), "by itself, or in another place of another batch"]
    output: Output
    image: str
    image_sha256: str
    batch_size: Annotated[int, "of that call"]
    place: Annotated[int, "in the batch, from 0"]
    first_batch_size: Annotated[int, "of the call that gave `y`"]
    relative_l2: Annotated[float | None, "`||y' - y|| / ||y||`, a fraction"]
    equal: Annotated[bool, "to the last bit"]


@declare
class NoiseFloor(Event, scripts=[ACCURACY]):
    """output, with `--golden`"""

    output: Output
    relative_l2: Annotated[float | None, "of the CPU's float32 against its float64"]


@declare
class Computed:
    """What computed a feature file."""

    device: Annotated[str, "of the outputs"]
    device_name: str
    simulated: Annotated[bool, "the device is a stand-in for tests"]
    dtype: Annotated[Dtype, "of the weights"]
    numerics: Annotated[str, OneOf(("strict", "fast")), "what was asked for"]


@declare
class ReferenceSource(Event, scripts=[ACCURACY]):
    """run with `--reference`"""

    file: Annotated[str, "by its name"]
    file_sha256: str
    model: Annotated[str, "that computed it"]
    precisions: Annotated[list[str], "`float32`, `float64`, or `features` alone"]
    preprocess: Annotated[dict[str, Any], "how images became pixel values"]
    versions: Annotated[dict[str, str | None], "of Python, the platform and the packages"]
    code_sha256: Annotated[str, "of the scripts and of `common/`"]
    git: Annotated[str | None, "commit, `+dirty` after local changes"]
    computed: Annotated[Computed | None, FLAT, "of a file of `inference.py`"] = None


@declare
class CandidateSource(Event, scripts=[ACCURACY]):
    """run with `--candidate`

    Its `env`, `model` and `numerics` are those of the run that made the file.
    """

    file: Annotated[str, "by its name"]
    file_sha256: str
    code_sha256: Annotated[str, "of the scripts and of `common/`"]
    git: Annotated[str | None, "commit, `+dirty` after local changes"]


@declare
class Prediction(Event, scripts=[ACCURACY], compact=True):
    """run with `--task`, of up to 1,000 images

    What the reference and the device make of them, in the order of the samples. A prediction is the index of a class
    (`classes` and `knn`) or the place of an image from 0 (`nearest`); -1 is none, of an embedding that is not finite.
    """

    first: Annotated[int, "the place of the first image, from 0"]
    labels: Annotated[Integers | None, OPTIONAL, "the index of each image's class"] = None
    reference: Annotated[Integers, "predicted from the reference's embeddings"]
    device: Annotated[Integers, "predicted from the device's"]
    margins: Annotated[
        Numbers,
        "relative L2 error of the embeddings that it takes to change the reference's prediction; of one that changed, "
        "to the device's",
    ]
    kept: Annotated[Integers | None, OPTIONAL, "of `nearest`: of the `neighbours`, how many are the same"] = None
    changed_images: Annotated[list[str], "those whose prediction is not the same, by their names, in order"]


@declare
class TaskFigures:
    """What follows from the predictions: the checker computes it again."""

    images: Annotated[int, "how many"]
    reference_accuracy: Annotated[
        float | None, "share of the images whose label the reference predicts; null without labels"
    ]
    device_accuracy: Annotated[float | None, "share whose label the device predicts; null without labels"]
    accuracy_drop: Annotated[float | None, "the first less the second"]
    lost: Annotated[int | None, "labels that the reference predicts and the device does not, without ties"]
    changed: Annotated[int, "predictions that are not the same"]
    ties: Annotated[int, "of these, whose margin is at most `rounding`"]
    changed_at_most: Annotated[float, "upper bound of the share that changes, with 95 % confidence (Clopper-Pearson)"]
    neighbours_kept: Annotated[float | None, "share of the `neighbours` that are the same; null but of `nearest`"]


@declare
class Task(Event, scripts=[ACCURACY]):
    """run with `--task`

    What the device's error does to the task that an encoder is for.
    """

    by: Annotated[str, OneOf(TASKS), "the model's own classes, a vote of nearest neighbours, or these alone"]
    reference: Annotated[Reference, "the first two on the CPU, the last in a file of `inference.py`"]
    labels: Annotated[str | None, "where they are from: `folders`, or a file by its name"]
    classes: Annotated[dict[str, int], "the index of each label"]
    neighbours: Annotated[int | None, "that vote or are compared; null of `classes`"]
    temperature: Annotated[float | None, "of their votes, `exp(cosine / temperature)`"]
    rounding: Annotated[float, "relative L2: the margin up to which a change is a tie"]
    figures: Annotated[TaskFigures, FLAT]
    threshold: Annotated[float, "the bound of `accuracy_drop` that was applied, a fraction"]
    result: Annotated[str | None, OneOf(("PASS", "FAIL", "CANNOT JUDGE")), "null where nothing is gated"]


@declare
class Cause(Event, scripts=[ACCURACY]):
    """hypothesis, after `--explain` or a FAIL

    How well a cause explains the device's error `y - r`, when its emulation gives `y_k`. A figure is null where
    NaN or infinities leave no number.
    """

    cause: Annotated[str, "causes joined by `+`, or `unexplained`"]
    explained: Annotated[float | None, "`1 - ||y - y_k||^2 / ||y - r||^2`"] = None
    residual: Annotated[float | None, "`||y - y_k||` as relative L2, the root mean square of both outputs'"] = None
    best: Annotated[bool, "the answer; one a run at most"] = False
    correlation: Annotated[float | None, "of the two errors"] = None
    size: Annotated[float | None, "`||y - r|| / ||y_k - r||`"] = None
    repeatable: Annotated[
        float | None, "the least that `y_k` explains of the same emulation, disturbed; null where that was not tried"
    ] = None
    confirmed: Annotated[float | None, OPTIONAL, "1 - e'^2 / e^2, e' the device's error without the cause"] = None
    without: Annotated[float | None, OPTIONAL, "that error e', as relative L2"] = None


@declare
class Layer(Event, scripts=[ACCURACY]):
    """block of the main chain, after `--explain` or a FAIL

    Errors are relative L2 of the CPU's output; null where one is not finite.
    """

    block: Annotated[int, "from 0"]
    name: Annotated[str, "of the module"]
    propagated: Annotated[float | None, "the error of the device's own output, all that came before included"]
    isolated: Annotated[float | None, "that of the device's block alone, given the CPU's input of this block"]
    blamed: Annotated[bool, "the error arises here; one a run at most"] = False


# --------------------------------------------------------------------------------------------------------- performance
@declare
class Startup(Event, scripts=[PERF]):
    """run"""

    load_ms: Annotated[float, "building the encoder and reading its weights"]
    place_ms: Annotated[float, "copying it to the device"]
    first_call_ms: Annotated[float, "the first of all, of one image, eager: what a user waits for once"]


@declare
class Windows:
    """Raw samples."""

    calls: Annotated[int, "of the encoder or the product in one sample, queued back to back"]
    samples_ms: Annotated[list[float], "each the time of so many calls, synchronised on both sides"]


@declare
class Product:
    """One of the encoder's matrix products, [rows, inner] x [inner, columns], and how fast the device is at it."""

    gflop: Annotated[float, "1e9 operations of this shape in an image"]
    shape: Annotated[list[int], "rows, inner, columns: `[rows, inner] x [inner, columns]`"]
    windows: Annotated[Windows, FLAT]
    windows_a_round: Annotated[list[int] | None, OPTIONAL, "how many of the samples are of each round"] = None


@declare
class Limit(Event, scripts=[PERF]):
    """run, where operations can be counted (earlier logs: one before the sweep, one after it)"""

    phase: Annotated[str, OneOf(("during", "before", "after")), "the sweep"]
    dtype: Dtype
    gemm_tflops: Annotated[float, "1e12 operations a second over the shapes, each at its best window"]
    spread: Annotated[
        float | None,
        OPTIONAL,
        "`1 - slowest / fastest` of the rounds, each by its own windows; above 0.2 it is unsteady",
    ] = None
    shapes: Annotated[list[Product], "the encoder's main matrix products"]


@declare
class SearchStep:
    """A batch size that was tried."""

    batch_size: int
    status: Status
    reason: Annotated[str | None, OPTIONAL, "of a failure"] = None
    windows: Annotated[Windows | None, FLAT, "where it is ok"] = None


@declare
class Search(Event, scripts=[PERF]):
    """run with `--batch-sizes auto`

    Batch sizes from 1, each twice the one before, eager. The last failed, or reached less than 5 % more images a second
    than the best before it, each by its best window. Those that are ok were measured.
    """

    steps: Annotated[list[SearchStep], "in the order in which they were tried"]


@declare
class OfCase:
    """The fields by which a record says what was timed."""

    batch_size: int
    mode: Mode = None

    @property
    def case(self) -> Case:
        return Case(EAGER if self.mode is None else self.mode, self.batch_size)


@declare
class Latencies(OfCase, Event, scripts=[PERF]):
    """batch size, mode and pass"""

    pass_: Annotated[
        str,
        OneOf(("latency", "throughput", "end_to_end", "issue")),
        "the last: of each call of the latency pass the time until it returned, on devices with a queue",
    ]
    windows: Annotated[Windows, FLAT]


@declare
class LatencyFigures:
    """Of one synchronised time a call; a percentile is None where the samples are too few to bound it."""

    n: Annotated[int, "samples of the latency pass"]
    avg_latency_ms: float
    min_latency_ms: float
    max_latency_ms: float
    p50_latency_ms: Annotated[float | None, "null below 5 samples"]
    p90_latency_ms: Annotated[float | None, "null below 29 samples"]
    p95_latency_ms: Annotated[float | None, "null below 59 samples"]
    p99_latency_ms: Annotated[float | None, "null below 299 samples"]
    iqr_latency_ms: Annotated[float | None, "interquartile range; null below 5 samples"]
    stable: Annotated[bool, "that range is at most 10 % of the median"]


@declare
class LimitFigures:
    """The throughput pass beside the limit; None without one."""

    achieved_tflops: Annotated[float | None, "of the throughput pass; null without a limit"]
    limit_tflops: Annotated[float | None, "`gemm_tflops`; of one before and one after the sweep the larger"]
    percent_of_limit: Annotated[float | None, "a fraction: of the throughput pass"]


@declare
class IssueFigures:
    """How long the host takes to issue a forward, and what bounds the latency by that; None on a CPU."""

    issue_ms: Annotated[float | None, "median until a call returned, from an idle device; null on a CPU"]
    bound: Annotated[
        str | None,
        OneOf(("host", "both", "device")),
        "what the latency is spent on: the host where issuing takes 90 % of it or more, the device below 50 %",
    ]


@declare
class Figures:
    """What follows from the raw samples of a batch size: the checker computes it again."""

    latency: Annotated[LatencyFigures, FLAT]
    throughput_ips: Annotated[float, "images a second"]
    end_to_end_ips: Annotated[float, "images a second with decoding, preprocessing and the copies"]
    limit: Annotated[LimitFigures, FLAT]
    issue: Annotated[IssueFigures | None, FLAT] = None


@declare
class Timed:
    """A batch size that was timed."""

    device: Annotated[str, "of the outputs"]
    dtype: Annotated[Dtype, "of the outputs"]
    first_call_ms: Annotated[float, "at this batch size, as it is timed: with `--compile` its compilation"]
    warmup_calls: Annotated[int, "untimed calls"]
    warmup_stable: Annotated[bool, "its last two windows agreed within 5 %"]
    figures: Annotated[Figures, FLAT]
    peak_memory_mb: Annotated[float | None, "MiB that tensors took at most; null on the CPU"]
    output_relative_l2: Annotated[float | None, "the timed outputs' worst error against those of the images alone"]
    nonfinite: Annotated[int, "NaN and infinite elements of the timed outputs"]
    image: Annotated[str, "the first"]
    image_sha256: str
    fingerprint: Annotated[Fingerprint, "of its embedding"]


@declare
class Perf(OfCase, Event, scripts=[PERF]):
    """batch size and mode"""

    status: Status
    reason: Annotated[str | None, OPTIONAL, "of a failure"] = None
    timed: Annotated[Timed | None, FLAT, "where it is ok"] = None


@declare
class Share:
    """What one rank did of a batch size."""

    node: Annotated[int, "the machine, from 0"]
    device: str
    status: Status
    windows: Annotated[Windows, FLAT]
    output_relative_l2: Annotated[float | None, "as in `perf`"]
    nonfinite: Annotated[int, "as in `perf`"]


@declare
class Scaling:
    """What several ranks reached together."""

    throughput_ips: Annotated[list[float], "images a second of each rank"]
    total_throughput_ips: Annotated[float, "their sum"]
    alone_throughput_ips: Annotated[float, "of the first rank while the others waited"]
    scaling_efficiency: Annotated[float, "the total as a fraction of so many ranks alone"]
    alone: Annotated[Windows, "what the first rank measured then"]


@declare
class Ranks(OfCase, Event, scripts=[PERF]):
    """batch size and mode, under `torchrun`"""

    status: Status
    scaling: Annotated[Scaling | None, FLAT, "where it is ok"] = None
    shares: Annotated[list[Share], "what each rank measured"]


@declare
class Part:
    """Modules of a kind that are built alike and get inputs of the same shape: one is timed for all."""

    module: Annotated[str, "the one that is timed"]
    count: Annotated[int, "of such modules that a forward runs"]
    windows: Annotated[Windows, FLAT]


@declare
class Kind(Event, scripts=[PERF]):
    """kind of module and batch size, after `--explain`

    Its modules alone, each on the input that it got in a forward, without the modules of other kinds in them. `forward`
    is the whole encoder, eager, timed in the same rounds.
    """

    name: Annotated[
        str,
        "`patch_embed`, `stem`, `attention`, `mlp`, `norm`, `activation`, `convolution`, `projection`, `head`, "
        "`stage 0` and so on, or `forward`",
    ]
    batch_size: int
    count: Annotated[int, "of its modules that a forward runs"]
    classes: Annotated[list[str], "of these modules"]
    ms: Annotated[float, "in a forward: the sum over its parts of `count` times a call, each by its median window"]
    share: Annotated[float, "a fraction of the time of `forward`"]
    remainder: Annotated[
        float | None,
        OPTIONAL,
        "of `forward`: what all shares leave of 1, the overhead between the kinds; below 0 they overlap",
    ] = None
    gflop: Annotated[float | None, "1e9 operations of matrix products in a forward; null without any"]
    percent_of_limit: Annotated[float | None, "a fraction: these operations in that time; null without a limit"]
    parts: Annotated[list[Part], "what was timed"]


@declare
class Speedup(Event, scripts=[PERF]):
    """run with a CPU baseline"""

    speedup: Annotated[float, "`baseline_latency_ms` over the device's `avg_latency_ms` at batch size 1"]
    baseline_latency_ms: Annotated[float, "mean of the CPU in float32 at batch size 1"]
    baseline_threads: Annotated[int, "of the CPU"]
    baseline_samples_ms: Annotated[list[float], "each the time of a call"]
