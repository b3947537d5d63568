"""A small Ling 2.0 model with all that the large ones have."""

import torch

from evolpo.model.config import preset
from evolpo.model.experts import routers
from evolpo.model.ling import BailingMoeV2ForCausalLM

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 3,
    "head_dim": 16,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "initializer_range": 0.2,
}


def make_ling(seed: int = 0, **changes: object) -> BailingMoeV2ForCausalLM:
    torch.manual_seed(seed)
    model = BailingMoeV2ForCausalLM(preset("ling_nano", **(SMALL | changes)))
    for router in routers(model):
        router.expert_bias.normal_(0, 0.1)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5)
    return model.eval()
