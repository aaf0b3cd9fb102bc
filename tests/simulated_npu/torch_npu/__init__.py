"""A simulated ``torch_npu`` for tests on machines without an Ascend card (see ../README.md).

Putting this package's parent folder on PYTHONPATH makes ``import torch`` load it, through the
``torch.backends`` entry point that the real torch_npu uses too, so unmodified scripts see an NPU.

Where to read what:
    settings        the environment variables
    faults          what goes wrong on request, and the grammar to ask for it
    device          a device's memory and its queue of kernels
    tensors         one memory seen as a host tensor and as an ``npu`` tensor
    dispatch        how an operator runs
    kernels         the operators that need more than the CPU's kernel: allocation, copies, views
    numerics        HF32 and GELU
    autocast        ``torch.autocast("npu")``
    module_forward  which ``nn.Module`` forward is running
    torch_patches   the places where torch asks C++ code that a simulated device does not have
    report          what happened, as JSON, at exit
    npu             the public ``torch.npu``
"""

from typing import Any


def _autoload() -> None:
    """The entry point that ``import torch`` calls; importing this module has done the work.

    Defined before torch is imported: after a plain ``import torch_npu`` torch looks it up in this
    still unfinished module.
    """


import torch  # noqa: E402
from torch.utils.backend_registration import (  # noqa: E402
    _setup_privateuseone_for_python_backend as setup_backend,
)

from torch_npu import autocast, kernels, module_forward, npu, report, torch_patches  # noqa: E402

__version__ = "0.0.0+simulated"


def npu_fusion_attention(*args: Any, **kwargs: Any) -> None:
    """Importable because transformers imports it; not simulated."""
    raise NotImplementedError("torch_npu.npu_fusion_attention is not simulated")


setup_backend("npu", backend_module=npu)
kernels.register()
autocast.register()
torch_patches.apply()
module_forward.track_module_calls()
report.write_at_exit()

npu_gelu = torch.ops.npu.npu_gelu
