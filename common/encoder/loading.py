"""Loading an encoder, from what --model and --weights name: the id on a hub, a folder, a file, or demo."""

from __future__ import annotations

from functools import partial
from types import ModuleType

from common.cli.launch import collector_paused, import_errors
from common.cli.options import ModelChoice
from common.encoder import checkpoints, weights
from common.encoder.base import Encoder
from common.encoder.checkpoints import Checkpoint
from common.errors import UserError


@collector_paused()
def load_encoder(wanted: ModelChoice, hashed: bool = False) -> Encoder:
    """The encoder that is wanted, in evaluation mode. Raises UserError for what can't be had.

    `hashed`: the caller will ask for `weights_sha256`, so it is made in a thread while the library is imported.
    """
    with import_errors():
        if wanted.model == "demo":
            if wanted.hub or wanted.revision:
                raise UserError("--hub and --revision are for ids on a hub, not for demo")
            from common.encoder import timm_models

            encoder = timm_models.load_demo(wanted)
        else:
            named = checkpoints.find_model(wanted)
            called = str(named.folder.absolute()) if named.folder else named.model
            checkpoint = checkpoints.find_checkpoint(wanted, named, partial(_refuse_unusable, called, wanted))
            encoder = _load_from(called, checkpoint, wanted, hashed)
            encoder.model = named.model
            encoder.hub, encoder.revision = named.hub or None, named.revision
    encoder.pooled, encoder.asked_size = wanted.pooled, wanted.input_size
    encoder.module.eval()
    return encoder


def _refuse_unusable(model: str, wanted: ModelChoice, checkpoint: Checkpoint) -> None:
    """Raise UserError for what could not be loaded whatever its weights are: before they are fetched."""
    _library_of(checkpoint).require_usable(model, checkpoint, wanted)


def _load_from(model: str, checkpoint: Checkpoint, wanted: ModelChoice, hashed: bool) -> Encoder:
    """Only the library that the model needs is imported: each takes seconds, in which a thread reads the weights."""
    sha256 = weights.sha256_ahead(checkpoint.files) if hashed and checkpoint.files else None
    if sha256 is None:
        weights.read_ahead(checkpoint.files)
    encoder: Encoder = _library_of(checkpoint).load(model, checkpoint, wanted)
    encoder.hash_weights = sha256 or encoder.hash_weights
    return encoder


def _library_of(checkpoint: Checkpoint) -> ModuleType:
    """The module for a checkpoint's library, imported now."""
    if checkpoint.library == "timm":
        from common.encoder import timm_models

        return timm_models
    from common.encoder import transformers_models

    return transformers_models
