"""Loading an encoder, from what --model and --weights name: the id on a hub, a folder, a file, or demo."""

from __future__ import annotations

from pathlib import Path

from common.cli.launch import collector_paused, import_errors
from common.cli.options import ModelChoice
from common.encoder import checkpoints, weights
from common.encoder.base import Encoder
from common.errors import UserError


@collector_paused()
def load_encoder(wanted: ModelChoice, hashed: bool = False) -> Encoder:
    """The encoder that is wanted, in evaluation mode. Raises UserError for what can't be had.

    `hashed`: the caller will ask for `weights_sha256`, so it is made in a thread while the library is imported.
    """
    model = wanted.model
    local = Path(model).is_dir()
    if (wanted.hub or wanted.revision) and (local or model == "demo"):
        raise UserError(f"--hub and --revision are for ids on a hub, not for {model}")
    with import_errors():
        if model == "demo":
            from common.encoder import timm_models

            encoder = timm_models.load_demo(wanted.weights, wanted.seed, wanted.input_size)
        else:
            library = checkpoints.find_library(model)
            checkpoint = checkpoints.find_checkpoint(wanted, library)
            encoder = _load_from(wanted, library, checkpoint, hashed)
    if local:
        encoder.model = Path(model).resolve().name  # where somebody's home is does not belong in a log
    encoder.module.eval()
    return encoder


def _load_from(wanted: ModelChoice, library: str, checkpoint: checkpoints.Checkpoint, hashed: bool) -> Encoder:
    """Only the library that the model needs is imported: each takes seconds, in which a thread reads the weights."""
    sha256 = weights.sha256_ahead(checkpoint.files) if hashed and checkpoint.files else None
    if sha256 is None:
        weights.read_ahead(checkpoint.files)
    if library == "timm":
        from common.encoder import timm_models

        encoder = timm_models.load(wanted.model, checkpoint, wanted.seed, wanted.input_size)
    else:
        from common.encoder import transformers_models

        encoder = transformers_models.load(wanted.model, checkpoint, wanted.seed, wanted.input_size)
    encoder.hash_weights = sha256 or encoder.hash_weights
    return encoder
