"""Linear layers and experts whose products are in FP8, and the switch of a model to them."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel

from evolpo.model.experts import Experts
from evolpo.model.fp8.product import fp8_product


class Fp8Linear(nn.Linear):
    """A linear layer without bias whose products are in FP8; made from an existing layer by `use_fp8`."""

    name = ""

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., out]."""
        return fp8_product(x, self.weight, None, self.name)


class Fp8Experts(Experts):
    """Experts whose products are in FP8; made from existing ones by `use_fp8`."""

    name = ""

    def grouped(self, rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
        """Rows [N, in] sorted by expert, times each expert's weight [E, out, in]; its rows end at `ends` [E]."""
        part = "gate_up_proj" if weight is self.gate_up_proj else "down_proj"
        return fp8_product(rows, weight, ends, f"{self.name}.{part}")


def use_fp8(model: nn.Module) -> list[str]:
    """Switch all linear layers and experts of a model to FP8 products, in place; weights keep their precision.

    The LM head, which a transformers model names as its output embedding, and layers with a bias stay as they are.

    Returns:
        Names of the layers that were switched.
    """
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None  # type: ignore[no-untyped-call]
    switched = []
    for name, module in model.named_modules():
        if type(module) is nn.Linear and module is not head and module.bias is None:
            module.__class__ = Fp8Linear
        elif type(module) is Experts:
            module.__class__ = Fp8Experts
        else:
            continue
        module.name = name
        switched.append(name)
    return switched
