"""What a model folder holds and what evolpo can do with it, as the rows of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from evolpo import InputError
from evolpo.model import load_model, load_tokenizer
from evolpo.model.config import register
from evolpo.model.files import DamagedError, read_object
from evolpo.model.head import LogitRule
from evolpo.model.stored import stored_tensors
from evolpo.model.support import LAYERS, check_folder
from evolpo.recipes.runs.context import context_tokens
from evolpo.rl.logprobs import Policy, check_supported, own_gaps
from evolpo.rollout.data.render import RenderError, render
from evolpo.rollout.ends import MARK, end_tokens, turn_end

MEMORY_SHARE = 0.5
"""Share of the free memory that a model may take to be loaded for a comparison."""
LONGEST_COMPARED = 600
"""Tokens of the longest row that is compared; windows beyond that are not reached."""
MARKERS = ("<think>", "</think>", "<answer>", "</answer>", "<tool_call>")
"""Markers that rewards look for; where they are special tokens, text without special tokens does not show them."""


@dataclass(frozen=True)
class ModelFacts:
    """A model in a table."""

    path: str
    rows: tuple[tuple[str, str], ...]
    """Names and values."""
    problem: str = ""
    """Why it cannot be trained, with its path; empty if it can."""

    def print(self) -> None:
        """Print the table."""
        table = Table(title=self.path, box=SIMPLE, show_header=False, title_justify="left")
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in self.rows:
            table.add_row(name, value)
        Console(width=None if Console().is_terminal else 120).print(table)


def model_facts(path: str) -> ModelFacts:
    """Read a model's files, load it, and compare its log-probabilities with its own logits.

    A model of a kind that cannot be trained is described from its configuration and not loaded.

    Args:
        path: folder in Hugging Face layout.

    Raises:
        InputError: the folder holds no model of text.
    """
    from transformers import AutoConfig

    try:
        check_folder(Path(path))
    except InputError as error:
        described = _refused_rows(path)
        if not described:
            raise
        return ModelFacts(path, (*described, ("evolpo", "cannot train it")), str(error).removeprefix("model.path: "))
    register()
    tokenizer = load_tokenizer(path)
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    rows = [*_config_rows(path, config)]
    problem = _template_problem(path, tokenizer)
    try:
        rows += [] if problem else _tokenizer_rows(path, tokenizer, config)
        rows.append(("log-probabilities", _compared(path, config)))
    except ValueError as error:
        problem = problem or f"{path}: {str(error).removeprefix('model.path: ')}"
    rows.append(("evolpo", "cannot train it" if problem else "trains it"))
    return ModelFacts(path, tuple(rows), problem)


def _template_problem(path: str, tokenizer: Any) -> str:
    """Why a plain question cannot be put with the chat template; empty if it can."""
    if not tokenizer.chat_template:
        return ""
    try:
        shown = render(tokenizer, [{"role": "user", "content": MARK}], add_generation_prompt=True)
    except RenderError as error:
        return f"{path}: its chat template fails on a question ({error}); give it another one"
    return "" if MARK in shown else f"{path}: its chat template leaves out what the user says; give it another one"


def _refused_rows(path: str) -> tuple[tuple[str, str], ...]:
    """What the configuration of a model that is refused says; nothing where transformers does not read it."""
    from transformers import AutoConfig

    if not (Path(path) / "config.json").is_file():
        return ()
    try:
        return tuple(_config_rows(path, AutoConfig.from_pretrained(path, trust_remote_code=False)))
    except Exception:  # noqa: BLE001 -- whatever a class makes of fields that are wrong; the refusal stands
        return ()


def _precision(path: str) -> torch.dtype | None:
    """What to load a model in: float32 if the free memory holds it well, else bfloat16, else nothing."""
    room = MEMORY_SHARE * psutil.virtual_memory().available
    size = sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
    widened = size if _stored_dtypes(path)[0][0] == "F32" else 2 * size
    return torch.float32 if widened <= room else torch.bfloat16 if size <= room else None


def _compared(path: str, config: Any) -> str:
    dtype = _precision(path)
    if dtype is None:
        return "not compared: the model takes more than half of the free memory"
    policy = Policy(load_model(path, dtype)).eval()
    check_supported(policy)
    window = getattr(config, "sliding_window", None) or 0
    prompt = min(max(window + 8, 32), LONGEST_COMPARED, (context_tokens(path) or LONGEST_COMPARED) - 8)
    gaps = own_gaps(policy, prompt, 8)
    name = "fp32" if dtype == torch.float32 else "bf16"
    beyond = f"; compared in rows of {prompt + 8} tokens, shorter than the window" if prompt <= window else ""
    return f"equal to the model's own within {gaps.max():.1g} nats ({name}){beyond}"


# -- from the configuration -----------------------------------------------------------------------------------------


def _config_rows(path: str, config: Any) -> Iterator[tuple[str, str]]:
    layers = config.num_hidden_layers
    names = ", ".join(config.architectures or ["unnamed"])
    yield "architecture", f"{names} ({config.model_type}), {layers} layers of {config.hidden_size}"
    yield "attention", _attention(config)
    experts = next(
        (n for f in ("num_local_experts", "num_experts", "n_routed_experts") if (n := getattr(config, f, 0))), 0
    )
    if experts:
        shared = getattr(config, "num_shared_experts", None) or getattr(config, "n_shared_experts", None)
        yield "experts", f"{experts}, {config.num_experts_per_tok} a token" + (f", {shared} shared" if shared else "")
    yield "head", _head(config)
    yield "precision", ", ".join(f"{count} tensors in {dtype}" for dtype, count in _stored_dtypes(path))
    context = context_tokens(path)
    yield "context", f"{context} tokens" if context else "not stated"


def _attention(config: Any) -> str:
    heads, groups = config.num_attention_heads, getattr(config, "num_key_value_heads", None)
    parts = [f"{heads} heads" + (f" on {groups} of keys and values" if groups and groups != heads else "")]
    if getattr(config, "kv_lora_rank", None):
        parts = [f"multi-head latent, {heads} heads on a latent of {config.kv_lora_rank}"]
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True):
        kinds = Counter(getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers)
        parts.append(f"window of {window} tokens in {kinds['sliding_attention']} of {config.num_hidden_layers} layers")
    elif "chunked_attention" in (getattr(config, "layer_types", None) or []):
        parts.append(f"chunks of {getattr(config, 'attention_chunk_size', '?')} tokens")
    else:
        parts.append("plain causal")
    others = Counter(kind for kind in getattr(config, "layer_types", None) or [] if kind not in LAYERS)
    parts += [
        f"{kind.replace('_', ' ')} in {count} of {config.num_hidden_layers} layers" for kind, count in others.items()
    ]
    if cap := getattr(config, "attn_logit_softcapping", None):
        parts.append(f"scores capped at {cap:g}")
    if config.model_type == "gpt_oss":
        parts.append("sinks")
    return ", ".join(parts)


def _head(config: Any) -> str:
    rule = LogitRule.of(config)
    parts = ["tied to the embedding" if getattr(config, "tie_word_embeddings", False) else "of its own"]
    parts += [f"logits times {rule.scale:.4g}"] if rule.scale != 1.0 else []
    parts += [f"logits capped at {rule.cap:g}"] if rule.cap is not None else []
    return ", ".join(parts)


def _stored_dtypes(path: str) -> list[tuple[str, int]]:
    """Precisions on disk and how many tensors have each, the commonest first; from the headers of the files."""
    counts: Counter[str] = Counter()
    with suppress(DamagedError):  # of a model that is refused, and the reason says which file it is
        counts.update(stored.dtype for _, stored in stored_tensors(Path(path)).values())
    return counts.most_common() or [("no", 0)]


# -- from the tokenizer ---------------------------------------------------------------------------------------------


def _tokenizer_rows(path: str, tokenizer: Any, config: Any) -> Iterator[tuple[str, str]]:
    def shown(token: int | None) -> str:
        return "none" if token is None else f"{tokenizer.convert_ids_to_tokens(token)} ({token})"

    size, rows = len(tokenizer), config.vocab_size
    fits = "" if size <= rows else "; prompts with the ids beyond are refused"
    yield "vocabulary", f"{size} tokens, {rows} embeddings{fits}"
    if tokenizer.chat_template:
        end = turn_end(tokenizer)
        yield "chat template", f"yes, ends an answer with {shown(end)}" if end is not None else "yes, writes no end"
    else:
        yield "chat template", "none: prompts are written as plain text"
    special = [f"{name} {shown(getattr(tokenizer, f'{name}_token_id'))}" for name in ("bos", "eos", "pad")]
    yield "special tokens", ", ".join(special)
    hidden = [marker for marker in MARKERS if marker in tokenizer.all_special_tokens]
    if hidden:
        yield "hidden markers", f"{' '.join(hidden)}: rewards see them with rollout.special_tokens=true"
    file = Path(path) / "generation_config.json"
    named = read_object(file).get("eos_token_id") if file.is_file() else None
    yield "responses end at", ", ".join(map(shown, end_tokens(tokenizer, (named, config.eos_token_id)))) or "nothing"
