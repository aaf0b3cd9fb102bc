"""Loading an encoder, from what --model and --weights name: the id on a hub, a folder, a file, or demo."""

from __future__ import annotations

from pathlib import Path

from common.cli.launch import collector_paused, import_errors
from common.encoder import checkpoints, weights
from common.encoder.base import Encoder
from common.errors import UserError


@collector_paused()
def load_encoder(
    model: str, weights_path: str | None, hub: str | None, revision: str | None, seed: int, hashed: bool = False
) -> Encoder:
    """The encoder that --model and --weights name, in evaluation mode. Raises UserError for what can't be had.

    `hashed`: the caller will ask for `weights_sha256`, so it is made in a thread while the library is imported.
    """
    local = Path(model).is_dir()
    if (hub or revision) and (local or model == "demo"):
        raise UserError(f"--hub and --revision are for ids on a hub, not for {model}")
    with import_errors():
        if model == "demo":
            from common.encoder import timm_models

            encoder = timm_models.load_demo(weights_path, seed)
        else:
            library = checkpoints.find_library(model)
            checkpoint = checkpoints.find_checkpoint(model, library, weights_path, hub, revision)
            encoder = _load_from(model, library, checkpoint, seed, hashed)
    if local:
        encoder.model = Path(model).resolve().name  # where somebody's home is does not belong in a log
    encoder.module.eval()
    return encoder


def _load_from(model: str, library: str, checkpoint: checkpoints.Checkpoint, seed: int, hashed: bool) -> Encoder:
    """Only the library that the model needs is imported: each takes seconds, in which a thread reads the weights."""
    sha256 = weights.sha256_ahead(checkpoint.files) if hashed and checkpoint.files else None
    if sha256 is None:
        weights.read_ahead(checkpoint.files)
    if library == "timm":
        from common.encoder import timm_models

        encoder = timm_models.load(model, checkpoint, seed)
    else:
        from common.encoder import transformers_models

        encoder = transformers_models.load(model, checkpoint, seed)
    encoder.weights_sha256 = sha256 or encoder.weights_sha256
    return encoder
