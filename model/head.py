"""What a model does to its logits after the LM head's matrix product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class LogitRule:
    """Logits x of the head become cap * tanh(scale * x / cap), or scale * x without a cap."""

    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, config: Any) -> LogitRule:
        """The rule of a model, by the fields that families have for it: Granite's, Cohere's, Gemma's."""
        divisor = getattr(config, "logits_scaling", None) or 1.0
        factor = getattr(config, "logit_scale", None) or 1.0
        return cls(float(factor) / float(divisor), getattr(config, "final_logit_softcapping", None))

    def apply_(self, logits: Tensor) -> Tensor:
        """Apply it in place to [..., V] float32 logits."""
        if self.scale != 1.0:
            logits *= self.scale
        if self.cap is not None:
            logits.div_(self.cap).tanh_().mul_(self.cap)
        return logits

    def slope(self, logits: Tensor) -> Tensor | float:
        """Derivative of what `apply_` returned, by what it was given."""
        if self.cap is None:
            return self.scale
        return (1.0 - (logits / self.cap) ** 2) * self.scale


PLAIN = LogitRule()
"""Leaves the logits as they are."""
