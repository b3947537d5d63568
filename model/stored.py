"""What the files of a model folder say of its sizes, and whether these are sizes; no weights are read."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from evolpo.model.files import DamagedError, Stored, read_header, read_object

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
GENERATION = "generation_config.json"
LARGEST = 2**31 - 1
"""No size of a model is larger."""
POSITIVE = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "max_position_embeddings", "n_embd", "n_layer", "n_head", "n_positions"),
)
"""Sizes that are never 0."""
COUNTS = re.compile(
    r"(num|n)_\w*(layers?|heads?|experts?|groups?|embd|positions|inner|ctx|tok)"
    r"|\w*_(size|dim|heads|layers|rank|experts)|max_position_embeddings|first_k_dense_replace"
)
"""Names of fields with a whole number that is not negative; null stands for a default."""
LONGEST_NAME = 200
KINDS = (
    ("architectures", list, "a list of names"),
    ("model_type", str, "a name"),
    ("quantization_config", dict, "an object"),
)
"""Fields that say of what kind a model is."""
NUMBERS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_length", "max_new_tokens")
ENDS = ("eos_token_id", "bos_token_id", "pad_token_id")


def stored_tensors(folder: Path) -> dict[str, tuple[str, Stored]]:
    """The tensors of a model folder by name: the file of each, and its type and shape.

    Raises:
        DamagedError: a file is not what it should be, or is missing though the index names it.
    """
    index = folder / INDEX
    if not index.exists():
        names = [WEIGHTS] if (folder / WEIGHTS).exists() else sorted(one.name for one in folder.glob("*.safetensors"))
        return {tensor: (name, stored) for name in names for tensor, stored in read_header(folder / name).items()}
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(one, str) for one in places.values()):
        raise DamagedError(index, "has no weight_map from tensors to files")
    shards: dict[str, dict[str, Stored]] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name or name in ("", ".", ".."):
            raise DamagedError(index, f"names a file outside of its folder ({name!r})")
        if not (folder / name).exists():
            raise DamagedError(folder / name, f"is missing, and {INDEX} names it")
        shards[name] = read_header(folder / name)
    lost = sorted(tensor for tensor, name in places.items() if tensor not in shards[name])
    if lost:
        raise DamagedError(folder / places[lost[0]], f"has no {lost[0]}, and {INDEX} says so")
    return {tensor: (name, shards[name][tensor]) for tensor, name in places.items()}


def parameters(folder: Path) -> int:
    """How many numbers the weights of a model folder are, by the headers of its files.

    Raises:
        DamagedError: a file is not what it should be.
    """
    return sum(math.prod(stored.shape) for _, stored in stored_tensors(folder).values())


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder, its sizes checked for being sizes, and what says its kind for being that.

    Raises:
        DamagedError: it cannot be read, or a field with a size has none.
    """
    file = folder / "config.json"
    raw = read_object(file)
    for name, kind, called in KINDS:
        fits = isinstance(raw.get(name), kind | None) and not (kind is str and len(raw.get(name) or "") > LONGEST_NAME)
        if not fits:
            raise DamagedError(file, f"says {name}={json.dumps(raw[name])[:40]}; give {called}")
    if not all(isinstance(one, str) for one in raw.get("architectures") or []):
        raise DamagedError(file, f"says architectures={json.dumps(raw['architectures'])[:40]}; give a list of names")
    for name, value in raw.items():
        if isinstance(value, float) and not math.isfinite(value) and COUNTS.fullmatch(name):
            raise DamagedError(file, f"says {name}={value}; give a whole number")
        if not COUNTS.fullmatch(name) or value is None or isinstance(value, list | dict):
            continue
        least = 1 if name in POSITIVE else 0
        if type(value) is not int or value < least:
            raise DamagedError(file, f"says {name}={json.dumps(value)[:40]}; give a whole number of at least {least}")
        if value > LARGEST:
            raise DamagedError(file, f"says {name}={value:.3g}; no model is so large")
    return raw


def check_generation(file: Path) -> None:
    """Raise DamagedError unless a generation_config.json, if there is one, has tokens and numbers where they belong."""
    if not file.exists():
        return
    raw = read_object(file)
    for name in ENDS:
        found = raw.get(name)
        ids = found if isinstance(found, list) else [] if found is None else [found]
        if not all(type(one) is int and 0 <= one <= LARGEST for one in ids):
            raise DamagedError(file, f"says {name}={json.dumps(found)[:40]}; give the id of a token, or a list")
    for name in NUMBERS:
        if raw.get(name) is not None and type(raw[name]) not in (int, float):
            raise DamagedError(file, f"says {name}={json.dumps(raw[name])[:40]}; give a number")
