"""The simulated NPU does what its documentation says.

It changes torch for a whole process and reads its settings from the environment, so the bodies of
the tests marked ``simulated`` run in forked processes, one for each environment: this file, run as
a script, executes the bodies that belong to the environment named on its command line.
"""

import copy
import io
import json
import os
import subprocess
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.forks import Forks
from torch import nn

SIMULATED_NPU = Path(__file__).parents[1] / "simulated_npu"
IN_CHILD = __name__ == "__main__"
OTHERS_VARIABLES = ("SIMULATED_NPU_", "ASCEND_", "TORCH_NPU_", "TORCH_DEVICE_BACKEND_AUTOLOAD")

pytestmark = pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no device backends written in Python; 2.14 has",
)

Body = Callable[[], None]
bodies: dict[str, dict[str, Body]] = defaultdict(dict)  # by environment, then by name


def child_process(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the simulated NPU and nothing but ``variables`` to configure it."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS_VARIABLES)}
    path = [str(SIMULATED_NPU)] + [folder for folder in [environ.get("PYTHONPATH")] if folder]
    environ |= {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"} | variables
    return subprocess.run([sys.executable, *command], env=environ, capture_output=True, text=True, timeout=120)


found: dict[str, dict[str, str]] = {}  # by environment: traceback, or "" for success, of each of its bodies by name


def failures_in(environment: str, forks: Forks, folder: Path) -> dict[str, str]:
    if environment not in found:
        child = forks.run(__file__, environment, cwd=folder, **json.loads(environment))
        assert child.code == 0, child.stderr
        found[environment] = json.loads(child.stdout.splitlines()[-1])
    return found[environment]


def simulated(**variables: str) -> Callable[[Body], Callable[[Forks, Path], None]]:
    """Run the test's body in a child process whose environment has ``variables``."""
    environment = json.dumps(variables, sort_keys=True)

    def decorate(body: Body) -> Callable[[Forks, Path], None]:
        bodies[environment][body.__name__] = body

        def test(forks: Forks, tmp_path: Path) -> None:
            if failure := failures_in(environment, forks, tmp_path)[body.__name__]:
                pytest.fail(failure, pytrace=False)

        test.__name__ = body.__name__
        return test

    return decorate


def run_bodies(environment: str) -> None:
    """In the child: run the environment's bodies, and print their failures as the last line."""
    import torch_npu  # noqa: F401

    failures = {}
    for name, body in bodies[environment].items():
        failures[name] = ""
        try:
            body()
        except (Exception, pytest.fail.Exception):  # what pytest.raises raises is no Exception
            failures[name] = traceback.format_exc()
    print(json.dumps(failures))


class Forward(nn.Module):
    """A module whose forward is a plain function."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor, **named_inputs: torch.Tensor) -> object:
        return self.function(*inputs, **named_inputs)


# ------------------------------------------------------------------------------ tensors, devices
@simulated()
def test_a_program_sees_an_npu() -> None:
    assert torch.npu.is_available() and torch.npu.device_count() == 1
    assert torch.get_device_module("npu") is torch.npu
    assert torch.accelerator.current_accelerator(check_available=True) == torch.device("npu")
    assert "SIM" in torch.npu.get_device_name(0)
    assert torch.npu.get_device_properties(0).total_memory == 1024 * 2**20
    import torch_npu

    assert "simulated" in torch_npu.__version__
    assert "simulated" in torch_npu.npu.utils.get_cann_version()


@simulated()
def test_tensors_are_on_the_npu_and_go_back_unchanged() -> None:
    host = torch.randn(3, 1, 5).transpose(0, 2)
    tensor = host.to("npu")
    assert tensor.device == torch.device("npu:0") and tensor.is_npu
    assert torch.equal(tensor.cpu(), host)
    assert tensor[1:].is_npu and tensor[1:].data_ptr() == tensor.data_ptr() + 4 * tensor.stride(0)
    assert nn.Linear(2, 2).npu().weight.is_npu
    assert torch.arange(3, device="npu").tolist() == [0, 1, 2]


@simulated()
def test_numpy_of_an_npu_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match="can't convert npu:0 device type tensor to numpy"):
        torch.ones(2, device="npu").numpy()


@simulated()
def test_tensors_of_two_devices_are_refused() -> None:
    x = torch.ones(2, 2, device="npu")
    message = "Expected all tensors to be on the same device, but found at least two devices, npu:0 and cpu!"
    with pytest.raises(RuntimeError, match=message):
        x + torch.ones(2, 2)
    with pytest.raises(RuntimeError, match=message):
        F.linear(x, torch.ones(2, 2))
    assert (x + torch.tensor(1.0)).is_npu, "a number may come from the host"


@simulated()
def test_checkpoints_and_copies_keep_their_device() -> None:
    weights = {"weight": torch.randn(4)}
    file = io.BytesIO()
    torch.save(weights, file)
    file.seek(0)
    loaded = torch.load(file, map_location="npu")["weight"]
    assert loaded.is_npu and torch.equal(loaded.cpu(), weights["weight"])
    assert copy.deepcopy(loaded).is_npu


@simulated(SIMULATED_NPU_DEVICES="4", ASCEND_RT_VISIBLE_DEVICES="1,3")
def test_visible_devices_are_renumbered() -> None:
    from torch_npu import device, settings

    assert torch.npu.device_count() == 2
    assert [visible.physical_id for visible in device.devices] == [1, 3]
    for missing in (lambda: torch.ones(1, device="npu:2"), lambda: torch.npu.set_device(2)):
        with pytest.raises(RuntimeError, match="Invalid device ID: 2"):
            missing()
    # the documentation's own examples, for eight devices
    assert settings.visible_devices(None, 8) == tuple(range(8))
    assert settings.visible_devices("1,2,3", 8) == (1, 2, 3)
    assert settings.visible_devices("1, 2,3", 8) == (1,), "a space ends the list"
    assert settings.visible_devices("1,3,8", 8) == (1, 3), "so does a device that is not there"
    assert settings.visible_devices("", 8) == ()


@simulated(SIMULATED_NPU_DEVICES="4", ASCEND_RT_VISIBLE_DEVICES="1,3")
def test_devices_have_memories_of_their_own() -> None:
    second = torch.ones(1000, device="npu:1")
    assert [torch.npu.memory_allocated(index) for index in (0, 1)] == [0, 4096]
    with pytest.raises(RuntimeError, match="two devices, npu:0 and npu:1"):
        torch.ones(1000, device="npu:0") + second
    assert (second.to("npu:0") + 1).device.index == 0
    with torch.npu.device(1):
        assert torch.npu.current_device() == torch.accelerator.current_device_index() == 1
        assert torch.ones(1, device="npu").device.index == 1
    assert torch.npu.current_device() == 0


@simulated(ASCEND_RT_VISIBLE_DEVICES="")
def test_no_device_may_be_visible() -> None:
    assert not torch.npu.is_available()
    assert torch.accelerator.current_accelerator(check_available=True) is None


# ------------------------------------------------------------------------------------- memory
@simulated()
def test_memory_is_counted() -> None:
    before = torch.npu.memory_allocated()
    torch.npu.reset_peak_memory_stats()
    tensor = torch.zeros(1000, device="npu")  # 4000 bytes, in blocks of 512
    assert torch.npu.memory_allocated() - before == 4096
    free, total = torch.npu.mem_get_info()
    assert (free, total) == (total - torch.npu.memory_allocated(), 1024 * 2**20)
    view = tensor[10:]
    del tensor
    assert torch.npu.memory_allocated() - before == 4096, "a view keeps the memory"
    del view
    assert torch.npu.memory_allocated() == before
    assert torch.npu.max_memory_allocated() - before == torch.accelerator.max_memory_allocated() - before == 4096
    torch.npu.reset_peak_memory_stats()
    assert torch.npu.max_memory_allocated() == before


@simulated(SIMULATED_NPU_MEMORY_MB="1")
def test_out_of_memory_is_raised_in_torch_npus_words() -> None:
    half = torch.zeros(2**17, device="npu")
    message = r"NPU out of memory. Tried to allocate 1.00 MiB \(NPU 0; 1.00 MiB total capacity; 0.50 MiB already"
    with pytest.raises(torch.OutOfMemoryError, match=message):
        torch.zeros(2**18, device="npu")
    with pytest.raises(torch.OutOfMemoryError):
        torch.cat([half, half])
    del half
    assert torch.zeros(2**18, device="npu").is_npu, "freed memory can be had again"


# ---------------------------------------------------------------------------------------- time
KERNEL_MS = 100


def launch_three_kernels() -> torch.Tensor:
    x = torch.zeros(1, device="npu")  # a kernel
    y = x + 1  # a second
    return y * 2  # and a third


@simulated(SIMULATED_NPU_KERNEL_US=str(1000 * KERNEL_MS))
def test_launching_kernels_does_not_wait_for_them() -> None:
    torch.npu.synchronize()
    x = launch_three_kernels()
    event = torch.npu.Event()
    event.record()
    x.to("cpu", non_blocking=True)
    assert not torch.npu.current_stream().query() and not event.query()


@simulated(SIMULATED_NPU_KERNEL_US=str(1000 * KERNEL_MS))
def test_only_a_synchronisation_waits_for_kernels() -> None:
    def wait_for_event(_: torch.Tensor) -> None:
        event = torch.npu.Event()
        event.record()
        event.synchronize()

    waits: dict[str, Callable[[torch.Tensor], object]] = {
        "torch.npu.synchronize": lambda x: torch.npu.synchronize(),
        "torch.accelerator.synchronize": lambda x: torch.accelerator.synchronize(),
        "Event.synchronize": wait_for_event,
        "cpu": torch.Tensor.cpu,
        "item": torch.Tensor.item,
        "equal": lambda x: torch.equal(x, x),
    }
    for name, wait in waits.items():
        torch.npu.synchronize()
        start = time.perf_counter()
        x = launch_three_kernels()
        wait(x)
        assert time.perf_counter() - start >= 3 * KERNEL_MS / 1000, name
        assert torch.npu.current_stream().query(), name


@simulated(SIMULATED_NPU_KERNEL_US=str(1000 * KERNEL_MS))
def test_events_measure_device_time() -> None:
    start, end = torch.npu.Event(enable_timing=True), torch.npu.Event(enable_timing=True)
    start.record()
    launch_three_kernels()
    end.record()
    assert 3 * KERNEL_MS <= start.elapsed_time(end) < 8 * KERNEL_MS
    with pytest.raises(RuntimeError, match="enable_timing=True"):
        torch.npu.Event().elapsed_time(end)


# ------------------------------------------------------------------------------------ numerics
def surviving_bits(multiply_by_one: Callable[[torch.Tensor], torch.Tensor]) -> int:
    """Largest k for which 1 + 2**-k goes through ``multiply_by_one`` unchanged."""
    value = {k: torch.tensor([[[1 + 2.0**-k]]], device="npu") for k in range(1, 24)}
    return max(k for k, x in value.items() if multiply_by_one(x).item() == x.item())


def conv(x: torch.Tensor) -> torch.Tensor:
    return F.conv1d(x, torch.ones(1, 1, 1, device="npu"))


def matmul(x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, torch.ones(1, 1, device="npu"))


@simulated()
def test_hf32_is_on_for_convolutions_and_off_for_matmul() -> None:
    assert torch.npu.conv.allow_hf32 is True and torch.npu.matmul.allow_hf32 is False
    assert (surviving_bits(conv), surviving_bits(matmul)) == (11, 23)
    torch.npu.conv.allow_hf32, torch.npu.matmul.allow_hf32 = False, True
    try:
        assert (surviving_bits(conv), surviving_bits(matmul)) == (23, 11)
    finally:
        torch.npu.conv.allow_hf32, torch.npu.matmul.allow_hf32 = True, False
    with pytest.raises(TypeError, match="must be a bool"):
        torch.npu.conv.allow_hf32 = 0


@simulated(SIMULATED_NPU_HF32="0", SIMULATED_NPU_GELU="exact")
def test_hf32_can_be_left_out() -> None:
    assert surviving_bits(conv) == 23


@simulated()
def test_native_gelu_computes_tanh_and_npu_gelu_what_is_asked() -> None:
    import torch_npu

    x = torch.linspace(-4, 4, 101)
    erf, tanh = F.gelu(x), F.gelu(x, approximate="tanh")
    assert not torch.equal(erf, tanh)
    assert torch.equal(F.gelu(x.npu()).cpu(), tanh)
    assert torch.equal(torch_npu.npu_gelu(x.npu()).cpu(), erf)
    assert torch.equal(torch_npu.npu_gelu(x.npu(), approximate="none").cpu(), erf)
    assert torch.equal(torch_npu.npu_gelu(x.npu(), approximate="tanh").cpu(), tanh)
    with pytest.raises(NotImplementedError, match="CPU"):
        torch_npu.npu_gelu(x)


@simulated(TORCH_NPU_USE_COMPATIBLE_IMPL="1", TORCH_NPU_FALLBACK_CPU_DISABLE="1")
def test_compatible_implementation_makes_native_gelu_compute_what_is_asked() -> None:
    x = torch.linspace(-4, 4, 101)
    assert torch.equal(F.gelu(x.npu()).cpu(), F.gelu(x))
    assert torch.equal(F.gelu(x.npu(), approximate="tanh").cpu(), F.gelu(x, approximate="tanh"))


@simulated(SIMULATED_NPU_HF32="0", SIMULATED_NPU_GELU="exact")
def test_a_timm_vit_gives_the_cpus_bits() -> None:
    import timm

    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=48, depth=3).eval()
    images = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        expected = model(images)
        assert torch.equal(model.to("npu")(images.npu()).cpu(), expected)


@simulated(SIMULATED_NPU_HF32="0", SIMULATED_NPU_GELU="exact")
def test_a_transformers_vit_gives_the_cpus_bits() -> None:
    from transformers import ViTConfig, ViTModel

    images = torch.randn(2, 3, 48, 48)
    for attention in ("sdpa", "eager"):
        torch.manual_seed(0)
        config = ViTConfig(
            hidden_size=48,
            num_hidden_layers=3,
            num_attention_heads=3,
            intermediate_size=96,
            image_size=48,
            attn_implementation=attention,
        )
        model = ViTModel(config, add_pooling_layer=False).eval()
        with torch.inference_mode():
            expected = model(pixel_values=images).last_hidden_state
            actual = model.to("npu")(pixel_values=images.npu()).last_hidden_state
        assert torch.equal(actual.cpu(), expected), attention


@simulated()
def test_autocast_multiplies_in_low_precision_and_normalises_in_fp32() -> None:
    x, weight = torch.randn(4, 8, device="npu"), torch.randn(8, 8, device="npu")
    with torch.autocast("npu", dtype=torch.bfloat16):
        product = F.linear(x, weight)
        normalised = F.layer_norm(product, (8,))
    assert (product.dtype, normalised.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(product.cpu(), F.linear(x.cpu().bfloat16(), weight.cpu().bfloat16()))


# -------------------------------------------------------------------------------------- faults
@contextmanager
def injected(spec: str) -> Iterator[Callable[[], int]]:
    """Inject the fault ``spec``; yields a function that tells how often it fired in the block."""
    from torch_npu import faults, report

    before, report.activity.faults[spec] = faults.FAULTS, 0
    faults.FAULTS = faults.parse(spec)
    try:
        yield lambda: report.activity.faults[spec]
    finally:
        faults.FAULTS = before


def sigmoid_under(fault: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What torch.sigmoid gives in a module's forward with and without ``fault``."""
    x = torch.linspace(-1, 1, 1000, device="npu").view(2, 5, 100)
    with injected(fault) as fired:
        faulty = Forward(torch.sigmoid)(x).cpu()
        assert fired() == 1, fault
    return faulty, torch.sigmoid(x).cpu()


@simulated()
def test_value_faults_change_the_result_as_documented() -> None:
    for kind in ("nan", "inf"):
        faulty, healthy = sigmoid_under(f"sigmoid:{kind}")
        assert (~faulty.isfinite()).nonzero().tolist() == [[0, 0, 0]], "one element, the first"
        assert torch.equal(faulty.flatten()[1:], healthy.flatten()[1:])
    faulty, _ = sigmoid_under("sigmoid:zero")
    assert not faulty.any()
    faulty, healthy = sigmoid_under("sigmoid:scale=1.02")
    assert torch.equal(faulty, healthy * 1.02)
    faulty, healthy = sigmoid_under("sigmoid:noise=0.1")
    relative_noise = (faulty - healthy).square().mean().sqrt() / healthy.square().mean().sqrt()
    assert 0.09 < relative_noise < 0.11
    assert torch.equal(sigmoid_under("sigmoid:noise=0.1")[0], faulty), "the noise is the same in every forward"


@simulated()
def test_raise_and_oom_faults_raise() -> None:
    x = torch.ones(2, device="npu")
    with injected("cat:raise"), pytest.raises(RuntimeError, match="call aclnncat failed"):
        Forward(torch.cat)([x, x])
    with injected("cat:oom"), pytest.raises(torch.OutOfMemoryError, match="NPU out of memory"):
        Forward(torch.cat)([x, x])


@simulated()
def test_faults_spare_plain_functions_and_the_cpu() -> None:
    with injected("sigmoid:nan") as fired:
        assert torch.sigmoid(torch.ones(2, device="npu")).cpu().isfinite().all()
        assert Forward(torch.sigmoid)(torch.ones(2)).isfinite().all()
        assert fired() == 0


@simulated()
def test_an_operator_has_the_names_of_its_family() -> None:
    import torch_npu

    x = torch.ones(2, 4, 4, 4, device="npu")
    matrix, vector = torch.ones(4, 4, device="npu"), torch.ones(4, device="npu")
    named: dict[str, list[Callable[[], torch.Tensor]]] = {
        "linear addmm mm": [
            lambda: F.linear(x, matrix),
            lambda: torch.addmm(vector, matrix, matrix),
            lambda: matrix @ matrix,
        ],
        "gelu": [lambda: F.gelu(x), lambda: torch_npu.npu_gelu(x), lambda: torch.ops.aten.gelu_(x.clone())],
        "layer_norm native_layer_norm": [lambda: F.layer_norm(x, (4,))],
        "attention scaled_dot_product_attention": [lambda: F.scaled_dot_product_attention(x, x, x)],
        "conv conv2d convolution": [lambda: F.conv2d(x, x), lambda: nn.Conv2d(4, 4, 2).npu()(x)],
        "softmax _softmax": [lambda: x.softmax(-1)],
    }
    for names, functions in named.items():
        for name in names.split():
            for number, function in enumerate(functions):
                with injected(f"{name}:nan") as fired:
                    assert Forward(function)().isnan().any(), (name, number)
                    assert fired() == 1, (name, number)


@simulated()
def test_selectors_choose_the_call() -> None:
    x = torch.ones(2, 3, device="npu")

    def three_times(x: torch.Tensor) -> list[bool]:
        return [bool(torch.sigmoid(x).isnan().any()) for _ in range(3)]

    inner = Forward(three_times)
    outer = Forward(lambda x: inner(x))  # the calls of inner modules count as the outermost one's
    with injected("sigmoid:nan;call=1"):
        assert outer(x) == outer(x) == [False, True, False]
    with injected("sigmoid:nan;call=3"):
        assert outer(x) == [False, False, False]
        assert Forward(lambda x: inner(x) + inner(x))(x) == [False, False, False, True, False, False]
    from torch_npu.report import activity

    with injected(f"sigmoid:nan;forward={activity.forwards + 1};call=2"):
        assert [outer(x) for _ in range(3)] == [[False] * 3, [False, False, True], [False] * 3]


@simulated()
def test_batch_selector_means_the_outermost_modules_input() -> None:
    def flattening(images: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(images.flatten(0, 1))

    with injected("sigmoid:oom;batch=8"):
        Forward(flattening)(torch.ones(4, 2, 3, device="npu"))
        with pytest.raises(torch.OutOfMemoryError):
            Forward(flattening)(torch.ones(8, 2, 3, device="npu"))
        with pytest.raises(torch.OutOfMemoryError):
            Forward(flattening)(images=torch.ones(8, 2, 3, device="npu"))


@simulated()
def test_selectors_choose_the_part_of_the_result() -> None:
    q = torch.ones(2, 3, 4, 5, device="npu")  # batch, heads, tokens, head dimension

    def changed(spec: str) -> torch.Tensor:
        with injected(f"attention:zero;{spec}"):
            return Forward(F.scaled_dot_product_attention)(q, q, q).cpu() == 0

    for spec, part in {
        "head=1": (slice(None), 1),
        "sample=1": (1,),
        "token=2": (slice(None), slice(None), 2),
        "sample=0;head=2;token=3": (0, 2, 3),
        "head=3": (slice(0, 0),),  # there is none: nothing changes
    }.items():
        expected = torch.zeros(q.shape, dtype=torch.bool)
        expected[part] = True
        assert torch.equal(changed(spec), expected), spec
    with injected("sigmoid:zero;head=0") as fired:
        Forward(torch.sigmoid)(torch.ones(2, 3, device="npu"))
        assert fired() == 0, "a matrix has no heads"


class TwoBlocks(nn.Module):
    """Two blocks of two operators each, which are named blocks.0 and blocks.1."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Sigmoid(), nn.Sigmoid()) for _ in range(2))

    def forward(self, x: torch.Tensor) -> list[bool]:
        return [bool(block(x).isnan().any()) for block in self.blocks]


@simulated()
def test_module_selector_follows_the_module_wherever_it_runs() -> None:
    model, x = nn.Sequential(TwoBlocks()), torch.ones(2, 3, device="npu")
    with injected("sigmoid:nan;module=blocks.1") as fired:
        assert model(x) == [False, True]
        assert fired() == 2
        assert model[0].blocks[1](x).isnan().any(), "alone"
        assert not model[0].blocks[1][0](x).isnan().any(), "a part of it alone is not the block"
        assert Forward(lambda x: model[0].blocks[1](x))(x).isnan().any(), "in another module"
        assert not model[0].blocks[0](x).isnan().any()
        assert TwoBlocks()(x) == [False, True], "another model has the name too"
    for name, expected in {
        "0.blocks.0": [True, False],
        "blocks.1.1": [False, True],
        "0": [True, True],
        "locks.1": [False, False],
        "blocks": [False, False],  # a list of modules does not run
    }.items():
        with injected(f"sigmoid:nan;module={name}"):
            assert model(x) == expected, name


@simulated()
def test_module_selector_knows_a_module_by_the_first_model_that_ran() -> None:
    model, x = TwoBlocks(), torch.ones(2, 3, device="npu")
    with injected("sigmoid:nan;module=blocks.1") as fired:
        model.blocks[1](x)  # before the whole model: it is nobody's part yet
        assert fired() == 0


@simulated()
def test_call_selector_counts_inside_the_selected_module() -> None:
    model, x = TwoBlocks(), torch.ones(2, 3, device="npu")
    for call in (0, 1):
        with injected(f"sigmoid:nan;module=blocks.1;call={call}") as fired:
            assert model(x) == [False, True]
            assert model.blocks[1](x).isnan().any(), "alone it makes the same calls"
            assert fired() == 2


@simulated()
def test_module_names_do_not_keep_a_module_alive() -> None:
    import gc

    from torch_npu import module_forward

    gc.collect()
    before = len(module_forward._names)
    model = TwoBlocks()
    model(torch.ones(2, 3, device="npu"))
    assert len(module_forward._names) == before + 8
    del model
    gc.collect()
    assert len(module_forward._names) == before


@simulated()
def test_to_stay_leaves_a_module_on_the_cpu() -> None:
    with injected("to:stay") as fired:
        module = nn.Linear(2, 2).to("npu")
        assert module.weight.device.type == "cpu" and torch.ones(1).to("npu").is_npu
        assert fired() == 1
    assert nn.Linear(2, 2).to("npu").weight.is_npu


@simulated()
def test_what_cannot_be_understood_is_refused() -> None:
    from torch_npu import faults, settings

    for spec, message in {
        "gelu": "unknown kind ''",
        "gelu:na": "unknown kind 'na'",
        "galu:nan": "unknown operator 'galu'",
        "gelu:scale": "scale and noise take a number",
        "gelu:nan=3": "scale and noise take a number",
        "gelu:nan;heads=3": "selector 'heads' does not apply",
        "gelu:oom;head=3": "selector 'head' does not apply",
        "gelu:nan;call=-1": "call takes a number from 0",
        "gelu:nan;module=": "module takes a module's name",
        "to:stay;module=blocks.1": "selector 'module' does not apply",
        "gelu:stay": "only make sense as to:stay",
    }.items():
        with pytest.raises(ValueError, match=message):
            faults.parse(spec)
    for name, value, message in [
        ("SIMULATED_NPU_DEVICE", "2", "unknown variable SIMULATED_NPU_DEVICE"),
        ("SIMULATED_NPU_NAME", "Ascend910B", "must contain SIM"),
        ("SIMULATED_NPU_HF32", "yes", "must be 0, 1 or always"),
        ("SIMULATED_NPU_GELU", "erf", "must be tanh or exact"),
    ]:
        with pytest.raises(ValueError, match=message):
            settings.read({name: value})


@simulated(TORCH_NPU_USE_COMPATIBLE_IMPL="1", TORCH_NPU_FALLBACK_CPU_DISABLE="1")
def test_a_disabled_fallback_raises() -> None:
    message = "'aten::sigmoid' would execute its main computation on CPU.*TORCH_NPU_FALLBACK_CPU_DISABLE=1"
    with injected("sigmoid:fallback"), pytest.raises(RuntimeError, match=message):
        Forward(torch.sigmoid)(torch.ones(2, device="npu"))


PROGRAM = """
import torch_npu  # before torch, which must not load it a second time
import torch
x = torch.ones(2, 3, 4, device="npu:1")
model = torch.nn.Sequential(torch.nn.GELU(), torch.nn.Sigmoid(), torch.nn.GELU(), torch.nn.Sigmoid())
model(x)
model(x)
print(model(x).isnan().sum().item())
raise SystemExit(3)
"""


def test_the_report_tells_what_happened_even_when_the_program_fails(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    child = child_process(
        ["-c", PROGRAM],
        SIMULATED_NPU_DEVICES="3",
        ASCEND_RT_VISIBLE_DEVICES="0,2",
        SIMULATED_NPU_FAULT="gelu:nan;call=1,sigmoid:fallback,cat:raise",
        SIMULATED_NPU_REPORT=str(report),
    )
    assert (child.returncode, child.stdout) == (3, "1\n"), child.stderr
    written = json.loads(report.read_text())
    assert written["faults"] == {"gelu:nan;call=1": 3, "sigmoid:fallback": 6, "cat:raise": 0}
    assert (written["operators"]["gelu"], written["operators"]["sigmoid"]) == (6, 6)
    assert written["kernels_by_device"] == {"2": written["kernels"]}
    assert written["kernels"] == sum(written["operators"].values())
    assert written["forwards"] == 3
    assert written["synchronisations"] == 7, "six fallbacks and item()"
    warning = "CAUTION: The operator 'aten::sigmoid' is not currently supported on the NPU backend"
    assert child.stderr.count(warning) == 1, "torch_npu warns once for each operator"


if IN_CHILD:
    torch.set_num_threads(1)
    run_bodies(sys.argv[1])
