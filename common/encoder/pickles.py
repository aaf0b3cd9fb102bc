"""Weights that torch.save wrote (.bin, .pth, .pt, .ckpt): pickles, of which nothing is run."""

from __future__ import annotations

import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from common.errors import UserError, first_line
from common.stand_ins import stand_in

SAFE_TORCH = (2, 6)  # before, weights_only could be got round (CVE-2025-32434)
TIMM_SETS = ("state_dict_ema", "model_ema", "state_dict", "model")  # of timm.models.load_state_dict, in its order
NAMED = 3  # how many of what an error names
CONVERSION = (
    "if you trust where it comes from, take its weights out once, in Python: content = torch.load(FILE, 'cpu', "
    "weights_only=False); safetensors.torch.save_file(WEIGHTS, 'model.safetensors'), WEIGHTS being content['model'], "
    "content['state_dict'], content.state_dict() or what its authors say"
)


def read(file: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors by name that a file holds, memory-mapped, and what is to be said of which they are.

    (What was written before torch 1.6 can't be mapped.) Torch makes tensors and plain containers alone of the file.
    Raises UserError for one that needs more than that, that is not whole, or that holds no weights by name.
    """
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < SAFE_TORCH:
        raise UserError(f"{file} is read safely by torch 2.6 and newer alone, not by {torch.__version__}")
    try:
        with warnings.catch_warnings(action="ignore"):  # of old formats, and of types that are refused below
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except Exception as error:  # a pickle is a program: damaged, it can make its interpreter raise anything
        raise UserError(f"{file} {stand_in(file) or _why_not(file, str(error))}") from error
    name, others = _choose_set(file, content)
    tensors = _named_tensors(content[name] if name else content)
    if not tensors:
        raise UserError(f"{file} holds {type(content).__name__}, no weights by name; {CONVERSION}")
    odd = [key for key, tensor in tensors.items() if tensor.is_meta or tensor.layout != torch.strided]
    if odd:
        raise UserError(f"{file} holds tensors that are sparse or without their data: {', '.join(odd[:NAMED])}")
    said = f"{file.name} holds {', '.join([name, *others])}: {name} is read, as timm does" if others else ""
    return {key: tensor.detach().contiguous() for key, tensor in tensors.items()}, said


def _why_not(file: Path, reason: str) -> str:
    """Why torch did not read a file. It names what would have had to be run: of an archive all, of older files one."""
    if "TorchScript" in reason:
        return f"is a TorchScript program, not weights by name; {CONVERSION}"
    code = re.findall(r"GLOBAL ([\w.]+)", reason)[:1]
    with suppress(Exception):  # of anything but a whole archive
        code = torch.serialization.get_unsafe_globals_in_checkpoint(file) or code
    if code:
        named = ", ".join(code[:NAMED])
        return f"holds more than weights, namely {named}, which weights_only=True does not make; {CONVERSION}"
    return f"is no whole file of torch.save: {first_line(reason)}"


def _choose_set(file: Path, content: Any) -> tuple[str, list[str]]:
    """The entry that holds the weights in what a training script saved, "" where they are all there is; and the others.

    Beside an epoch and an optimizer's state there may be several: then it is the one that timm takes, averaged weights
    before the last ones. Raises UserError where that says nothing.
    """
    entries = content if isinstance(content, dict) else {}
    sets = [name for name, value in entries.items() if isinstance(name, str) and _named_tensors(value)]
    known = [name for name in TIMM_SETS if name in sets]
    if not sets or (not known and _named_tensors(content)):
        return "", []
    if len(sets) > 1 and not known:
        raise UserError(f"{file} holds several sets of weights ({', '.join(sets)}): save the one that is meant alone")
    name = (known or sets)[0]
    return name, [other for other in sets if other != name]


def _named_tensors(value: Any) -> dict[str, Tensor]:
    """The tensors in a dictionary by name; none in anything else."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return {}
    return {key: tensor for key, tensor in value.items() if isinstance(tensor, Tensor)}
