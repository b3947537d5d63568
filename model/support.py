"""What a model folder holds, and whether a model of its kind can be trained, before its weights are loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolpo import InputError
from evolpo.model.config import ARCHITECTURE, BailingMoeV2Config, register
from evolpo.model.digests import STATE, damage, step_of, way_out
from evolpo.model.files import DamagedError, read_object
from evolpo.model.shapes import check_stored
from evolpo.model.stored import read_config

LAYERS = ("full_attention", "sliding_attention", "chunked_attention")
"""Kinds of layers that can be trained, by transformers' names: causal attention on all tokens or on some."""
OTHER_SENSES = ("vision_config", "audio_config", "vision_tower", "speech_config", "image_token_id", "image_token_index")
"""Fields of a configuration that a model of text alone does not have."""


def check_folder(folder: Path) -> None:
    """Check that a folder holds a model of text that can be trained, with its weights and tokenizer.

    Raises:
        InputError: it does not; one line says what it holds instead and what to do about it.
    """
    if is_checkpoint := step_of(folder) is not None or (folder / STATE).is_file():
        check_whole_model(folder)
    missing = [name for name in ("config.json", "tokenizer_config.json") if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    # An adapter's weights are called adapter_model.safetensors; beside a config.json it is an extra.
    if (folder / "adapter_config.json").is_file() and "config.json" in missing:
        base = _read(folder / "adapter_config.json").get("base_model_name_or_path") or "its base model"
        raise InputError(
            f"model.path: {folder} is an adapter of {base}; make a whole model of both first: evolpo merge"
            f" adapter={folder} output=FOLDER, and give that folder"
        )
    if missing and (gguf := sorted(folder.glob("*.gguf"))):
        raise InputError(
            f"model.path: {folder} holds GGUF weights; write them as safetensors first:"
            f" AutoModelForCausalLM.from_pretrained(..., gguf_file={gguf[0].name!r}) and save_pretrained"
        )
    if missing == ["*.safetensors"] and any(folder.glob("*.bin")):
        raise InputError(
            f"model.path: {folder} holds its weights as *.bin; write them as safetensors first:"
            " AutoModelForCausalLM.from_pretrained and save_pretrained"
        )
    if missing:
        raise InputError(f"model.path: {folder} is no model folder, it has no {' and no '.join(missing)}")
    check_kind(folder)
    if not is_checkpoint:
        check_whole_model(folder)
    try:
        check_stored(folder)
    except DamagedError as error:
        raise InputError(f"model.path: {error}; copy or download it again") from None


def check_kind(folder: Path) -> None:
    """Check that a model of this kind can be trained, by its config.json.

    Raises:
        InputError: it cannot.
    """
    try:
        reason = unsupported(read_config(folder))
    except DamagedError as error:
        raise InputError(f"model.path: {error}; copy or download it again") from None
    if reason:
        raise InputError(f"model.path: {folder} {reason}")


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_object(file)
    except DamagedError as error:
        raise InputError(f"model.path: {error}; copy or download it again") from None


def check_whole_model(folder: Path) -> None:
    """Read the files of a model, and hold those of a checkpoint against what was written.

    Raises:
        InputError: one is damaged; it is named, and the newest older checkpoint of the same run that is whole.
    """
    if (found := damage(folder, optimizer=False)) is not None:
        mend = way_out(folder, "model.path={}".format, "copy or download it again", optimizer=False)
        raise InputError(f"model.path: {found}; {mend}")


def unsupported(raw: Mapping[str, Any]) -> str | None:
    """Why a model with this config.json cannot be trained, as the rest of a sentence about it; None if it can."""
    named = (raw.get("architectures") or ["a model"])[0]
    quantised = raw.get("quantization_config")
    if quantised:
        how = quantised.get("quant_method", "unknown method")
        return (
            f"has quantised weights ({how}); train the original, or write a dequantised copy with transformers"
            " (quantization_config=...(dequantize=True), then save_pretrained)"
        )
    if any(raw.get(field) is not None for field in OTHER_SENSES) or isinstance(raw.get("text_config"), dict):
        return f"is multimodal ({named}); evolpo trains models of text, so give its language model alone"
    return _by_class(raw, named)


def _by_class(raw: Mapping[str, Any], named: str) -> str | None:
    """The same, by what transformers knows of the class."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    register()
    kind = raw.get("model_type")
    if kind == BailingMoeV2Config.model_type or named == ARCHITECTURE:
        return None
    if not kind:
        return "has a config.json without model_type"
    if kind not in CONFIG_MAPPING:
        own = "; it brings code of its own, which evolpo does not run" if raw.get("auto_map") else ""
        return f"is a {kind} ({named}), which transformers {transformers.__version__} does not know{own}"
    config_class: Any = CONFIG_MAPPING[kind]
    if config_class not in transformers.AutoModelForCausalLM._model_mapping:
        return f"is a {kind} ({named}), no causal language model"
    if raw.get("is_encoder_decoder"):
        return f"is a {kind} ({named}), an encoder and decoder"
    model_class: Any = transformers.AutoModelForCausalLM._model_mapping[config_class]
    layers = other_layers(config_class, raw)
    if layers or getattr(model_class, "_is_stateful", False):
        what = f" ({', '.join(layers)})" if layers else ""
        return (
            f"is a {kind} ({named}), whose layers are not attention alone{what}; responses could not share their"
            " prompt, so it cannot be trained here"
        )
    if not model_class._can_set_attn_implementation():
        return f"is a {kind} ({named}), whose attention in transformers cannot be replaced"
    return None


def other_layers(config_class: Any, raw: Mapping[str, Any]) -> list[str]:
    """Kinds of layers of a model that are no causal attention, by transformers' names, the commonest first."""
    try:
        kinds = getattr(config_class(**raw), "layer_types", None) or []
    except Exception:  # noqa: BLE001 -- whatever a class makes of fields that are wrong
        return []  # a configuration that does not even load is reported when it is loaded
    return [name for name, _ in Counter(kinds).most_common() if name not in LAYERS]
