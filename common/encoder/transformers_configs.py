"""What a config.json asks for, and whether transformers' class of that type can give it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

from common.encoder import config_keys, npu_blind, weights
from common.errors import UserError

transformers: Any = npu_blind.import_transformers()

TOWER = "vision_config"
LAYERS = {"layers", "stages"}
DEPTHS = {"depths", "depth", "num_block_repeats"}  # lists that say how many layers there are
# What transformers 4 and earlier wrote into every config, and 5 no longer knows.
OF_EARLIER_CONFIGS = {
    *("torch_dtype", "auto_map", "attn_implementation", "num_labels", "finetuning_task", "torchscript", "prefix"),
    *("pruned_heads", "use_bfloat16", "tf_legacy_loss", "is_decoder", "add_cross_attention", "tie_encoder_decoder"),
    *("cross_attention_hidden_size", "tie_word_embeddings", "tokenizer_class", "sep_token_id", "task_specific_params"),
    "gradient_checkpointing",
}


def own_class(config: Any) -> Any:
    """The class that the checkpoint was saved from, by the config; None where it names none.

    Raises UserError for a class that transformers lacks, or that is another type's.
    """
    named = config.architectures or []
    names = [name for name in ([named] if isinstance(named, str) else named) if isinstance(name, str)]
    if not names:
        return None
    classes: list[Any] = [getattr(transformers, name, None) for name in names]
    found = [each for each in classes if getattr(each, "config_class", None) is not None]
    if not found:
        raise UserError(
            f"config.json is of {names[0]}, which transformers {transformers.__version__} does not have; other "
            "code is never run"
        )
    related = [each for each in found if _are_related(each.config_class, type(config))]
    if not related:
        raise UserError(f"config.json is of {names[0]}, but of another model's type, {config.model_type}")
    return related[0]


def _are_related(one: Any, other: Any) -> bool:
    """Whether two classes of configs are of one model: the same, or one a part of the other."""
    parts = {*getattr(one, "sub_configs", {}).values(), *getattr(other, "sub_configs", {}).values()}
    return issubclass(one, other) or issubclass(other, one) or one in parts or other in parts


def classes_of(config: Any) -> Iterator[Any]:
    """All models of transformers that are built from such a config: an encoder, and those that have it inside."""
    module = sys.modules[transformers.MODEL_MAPPING[type(config)].__module__]
    members: list[Any] = list(vars(module).values())
    for each in members:
        if not (inspect.isclass(each) and issubclass(each, transformers.PreTrainedModel)):
            continue
        built_from: Any = getattr(each, "config_class", None)
        abstract = each.__name__.endswith(("PreTrainedModel", "PretrainedModel"))
        if each.__module__ == module.__name__ and built_from is type(config) and not abstract:
            yield each


def require_known(written: dict[str, Any], config: Any, fitting: bool) -> list[str]:
    """Raise UserError for a config.json that sets a size which its class does not take; return notes on other keys.

    transformers ignores what it does not know: a model of other code, whose keys have other names, would be built in
    the class's default size. `fitting` weights prove the sizes that show in them. Other keys without effect are left
    behind by earlier versions, and by people.
    """
    if config.model_type == "timm_wrapper":  # its keys are timm's
        return []
    unknown: list[str] = []
    for keys, reader in _levels(written, config):
        sizes = [key for key in config_keys.sizes(keys, fitting) if not _is_commonplace(key)]
        refused = [key for key in sizes if not _is_taken(key, keys, reader)]
        if refused:
            raise UserError(
                f"config.json sets {weights.some_of(refused)}, which {type(reader).__name__} does not take: it is "
                "of another model, or of another version of transformers"
            )
        plain = type(reader)()
        unknown += [key for key, value in keys.items() if value is not None and not hasattr(plain, key)]
    unknown = [key for key in unknown if not _is_commonplace(key)]
    declares = f"config.json holds keys that {type(config).__name__} does not declare: {weights.some_of(unknown)}"
    return [declares] if unknown else []


def _levels(written: dict[str, Any], config: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """The keys of the file with the config that reads them: the tower's, of two towers, else those at the top."""
    if isinstance(written.get(TOWER), dict) and hasattr(config, TOWER):
        yield written[TOWER], getattr(config, TOWER)
    else:
        yield written, config


def _is_taken(key: str, keys: dict[str, Any], config: Any) -> bool:
    """Whether the class of a config takes a key, or computes that very value from the keys that it takes."""
    names: dict[str, str] = type(config).attribute_map
    parameters = set(inspect.signature(type(config).__init__).parameters)
    if names.get(key, key) in parameters:
        return True
    if LAYERS & config_keys.words(key) and DEPTHS & parameters:  # their number, which earlier versions wrote down
        return True
    taken = {each: value for each, value in keys.items() if names.get(each, each) in parameters}
    value = _as_list(keys[key])
    role = [words for words in config_keys.ROLES if words & config_keys.words(key)]
    if any(words & config_keys.words(each) and _as_list(taken[each]) == value for words in role for each in taken):
        return True  # said twice
    return bool(_as_list(getattr(type(config)(**taken), key, None)) == value)


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _is_commonplace(key: str) -> bool:
    """Whether it is a key of every config, or of how texts are generated, which earlier versions wrote into each."""
    every = (transformers.PretrainedConfig().to_dict(), transformers.GenerationConfig().to_dict(), OF_EARLIER_CONFIGS)
    return key.startswith("_") or any(key in keys for keys in every)
