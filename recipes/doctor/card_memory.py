"""Whether a pass takes of a card what `evolpo plan` says."""

from __future__ import annotations

import torch

from evolpo.recipes.doctor.finding import CARE, GOOD, ISSUE, Finding
from evolpo.recipes.memory.needs import Work
from evolpo.recipes.memory.passes import largest_batch, traced_pass
from evolpo.recipes.memory.presets import PRESETS

WORK = Work(prompt_tokens=512, response_tokens=1536, responses=4, tokens=4096)
CLOSE = 0.1
SIZES = {**PRESETS["qwen2_5_1_5b"], "tie_word_embeddings": False}
"""Qwen2.5-1.5B's, with a head of its own."""


def passes() -> Finding:
    """Peak memory of a forward and backward pass with and without recomputation, against what was traced."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from evolpo.rl.logprobs import Policy

    config = AutoConfig.for_model(**SIZES, attn_implementation="eager")
    batch = largest_batch(WORK, torch.device("cuda"))
    figures: dict[str, float] = {}
    for checkpointing in (False, True):
        with torch.device("cuda"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).train(False)  # type: ignore[no-untyped-call]
        policy = Policy(model)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            policy.train()
        for parameter in policy.parameters():
            parameter.grad = torch.zeros_like(parameter)
        torch.cuda.synchronize()
        standing = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        logprobs, *_ = policy(batch)
        logprobs.sum().backward()
        torch.cuda.synchronize()
        name = "recomputed" if checkpointing else "kept"
        figures[f"{name}_gb"] = (torch.cuda.max_memory_allocated() - standing) / 1e9
        figures[f"{name}_planned_gb"] = traced_pass(config, WORK, torch.bfloat16, checkpointing).peak / 1e9
        del model, policy, logprobs, parameter
        torch.cuda.empty_cache()
    pairs = [(figures[f"{name}_gb"], figures[f"{name}_planned_gb"]) for name in ("kept", "recomputed")]
    off = max(abs(real / planned - 1) for real, planned in pairs)
    found = "; ".join(f"{real:.2f} GB, planned {planned:.2f}" for real, planned in pairs) + ", the second recomputed"
    if not off < CLOSE:
        return Finding(
            CARE,
            found,
            f"evolpo plan is off by {off:.0%} here",
            f"leave more room; {ISSUE}",
            figures,
        )
    return Finding(GOOD, found, "evolpo plan holds here", figures=figures)
