"""Whether the weights of a model folder have the shapes that its config.json means; nothing is loaded."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evolpo import InputError
from evolpo.model.files import DamagedError, Stored
from evolpo.model.stored import GENERATION, check_generation, read_config, stored_tensors

LAYERS = ("num_hidden_layers", "n_layer")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
EMBEDDING = re.compile(r"(.*\.)?(embed_tokens|wte|word_embeddings)\.weight")


def check_stored(folder: Path) -> None:
    """Check that config.json has sizes of a model, and that the weights beside it are of these sizes.

    Raises:
        InputError: it has not, or a tensor has another shape; it is named.
    """
    raw = read_config(folder)
    check_generation(folder / GENERATION)
    tensors = stored_tensors(folder)
    _check_counts(folder, raw, tensors)
    expected = expected_shapes(folder)
    for name, (file, stored) in tensors.items():
        shape = expected.get(name, stored.shape)
        if shape != stored.shape:
            raise _unequal(folder, file, name, stored.shape, shape)


def _unequal(folder: Path, file: str, name: str, there: tuple[int, ...], meant: tuple[int, ...]) -> InputError:
    return InputError(
        f"model.path: {folder / file}: {name} has the shape {list(there)}, and config.json means {list(meant)}; "
        "one of the two files belongs to another model"
    )


def _check_counts(folder: Path, raw: Mapping[str, Any], tensors: Mapping[str, tuple[str, Stored]]) -> None:
    """Hold layers, experts and the embedding against the weights: with these the model can be made without memory."""
    heads = Counter(match[1] for name in tensors if (match := re.match(r"(.*?)\.\d+\.", name)))
    main = heads.most_common(1)[0][0] if heads else ""
    numbers = [int(match[1]) for name in tensors if (match := re.match(re.escape(main) + r"\.(\d+)\.", name))]
    layers = next((raw[name] for name in LAYERS if type(raw.get(name)) is int), None)
    if layers is not None and numbers:
        found, further = max(numbers) + 1, raw.get("num_nextn_predict_layers") or 0
        if not layers <= found <= layers + further:
            raise DamagedError(
                folder / "config.json", f"speaks of {layers} layers, and the weights beside it have {found}"
            )
    experts = next((raw[name] for name in EXPERTS if raw.get(name)), None)
    chosen = [int(match[1]) for name in tensors if (match := re.search(r"\.experts\.(\d+)\.", name))]
    if isinstance(experts, int) and chosen and max(chosen) + 1 != experts:
        raise DamagedError(
            folder / "config.json", f"speaks of {experts} experts, and the weights beside it have {max(chosen) + 1}"
        )
    meant = (raw.get("vocab_size") or 0, raw.get("hidden_size", raw.get("n_embd")) or 0)
    for name, (file, stored) in tensors.items():
        plain = EMBEDDING.fullmatch(name) and 0 not in meant and "word_embed_proj_dim" not in raw
        if plain and stored.shape != meant:
            raise _unequal(folder, file, name, stored.shape, meant)


def expected_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors by their published names, as config.json means them; no memory is asked for.

    Raises:
        InputError: no model can be made of it.
    """
    from evolpo.model.names import by_layer, published

    model = empty_model(folder)
    named = model.state_dict(keep_vars=True).items()
    return {name: tuple(one.shape) for layer in by_layer(named) for name, one in published(model, layer)}


def empty_model(folder: Path) -> Any:
    """The model of a config.json on the meta device.

    Raises:
        InputError: no model can be made of it.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    from evolpo.model.config import BailingMoeV2Config, register

    register()
    loudness = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            if isinstance(config, BailingMoeV2Config):
                from evolpo.model.ling import BailingMoeV2ForCausalLM

                return BailingMoeV2ForCausalLM(config)
            maker: Any = AutoModelForCausalLM
            return maker.from_config(config, attn_implementation="eager", trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 -- whatever a class makes of fields that are wrong
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"model.path: {folder / 'config.json'}: no model can be made of it ({reason})") from None
    finally:
        logging.set_verbosity(loudness)
