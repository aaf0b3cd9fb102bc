"""``torch_npu.npu.utils``."""


def get_cann_version(module: str = "CANN") -> str:
    """There is no CANN behind a simulated device, and the answer says so."""
    return "simulated"
