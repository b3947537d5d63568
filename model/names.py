"""From the tensors in memory to those of a public checkpoint, and a folder with them.

transformers stacks the experts of a layer and renames some tensors when it loads a model. vLLM, and everybody who reads
a checkpoint, expects the published names; the way back is the one by which transformers itself saves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from evolpo.model import weights
from evolpo.model.config import BailingMoeV2Config
from evolpo.model.shards import Do, at_once, write_shards

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYER = re.compile(r"\.(\d+)\.")
GENERATION = "generation_config.json"


def by_layer(named: Iterable[tuple[str, Tensor]]) -> Iterator[list[tuple[str, Tensor]]]:
    """Split named tensors, in their order, into those of one layer after the other, as `published` takes them."""

    def layer(pair: tuple[str, Tensor]) -> str | None:
        found = LAYER.search(pair[0])
        return pair[0][: found.end()] if found else None

    for _, group in groupby(named, layer):
        yield list(group)


def published(model: PreTrainedModel, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Tensors in memory as those of a public checkpoint of the model's family; views where that is possible.

    Args:
        model: whose tensors they are.
        named: all tensors of one layer or more, by their names in memory: some are published together.
    """
    if isinstance(model.config, BailingMoeV2Config):
        for name, tensor in named:
            yield from weights.published(name, tensor)
        return
    from transformers.core_model_loading import revert_weight_conversion

    yield from revert_weight_conversion(model, dict(named)).items()


def save_model(model: PreTrainedModel, folder: Path, tensors: Iterable[tuple[str, Tensor]], do: Do = at_once) -> None:
    """Write a model folder in Hugging Face layout, without a tokenizer.

    Its generation_config.json is written as it was read: transformers would refuse one that holds fields of sampling
    without `do_sample`, as many published ones do.

    Args:
        model: whose configuration is written.
        folder: made if it is not there.
        tensors: the weights under their published names, each once; each may be gone when the next is asked for.
        do: what becomes of a file's tensors once they are on the host.
    """
    folder.mkdir(parents=True, exist_ok=True)
    left_out = set(model._keys_to_ignore_on_save or ())
    write_shards((pair for pair in tensors if pair[0] not in left_out), folder, do)
    model.config.dtype = model.dtype
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    own: Any = model.generation_config
    if own is not None:
        own.to_json_file(folder / GENERATION)
