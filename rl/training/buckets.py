"""How many numbers DeepSpeed reduces and gathers at a time, by the size of a model, and what it holds for that.

Its own values (reduce 5e8, fetch 5e7 ahead, keep parameters of 1e5 whole) are a buffer of 1 to 2 GB whatever the model.
Those here are what transformers fills in for "auto": of a hidden size H, reduce H^2, fetch 0.9 H^2 ahead, keep 10 H.
But not less than `LEAST` is reduced at once, or messages would wait for each other more than for the wire: [ours].

`allgather_bucket_size` is left alone: DeepSpeed gathers weights in place, slice by slice, without a buffer
(`all_gather_dp_groups` in its `runtime/utils.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

LEAST = 1 << 24
FIXED = 5 * 10**8
"""Numbers that DeepSpeed reduces at once in stage 1 in bf16, whatever it is given."""
LIVE = 10**9
"""Numbers that stage 3 keeps gathered at a time, DeepSpeed's `stage3_max_live_parameters`."""


@dataclass(frozen=True)
class Buckets:
    """Sizes, in numbers."""

    reduce: int
    """Of gradients that are reduced at once."""
    ahead: int
    """Of weights that stage 3 gathers before they are asked for."""
    kept: int
    """Of the largest parameter that stage 3 leaves whole on every rank."""

    @classmethod
    def of(cls, hidden: int, total: int) -> Buckets:
        """Those for a model of this hidden size with so many parameters."""
        reduce = min(max(hidden * hidden, LEAST), total)
        return cls(reduce, reduce * 9 // 10, 10 * hidden)

    def settings(self) -> dict[str, int]:
        """As DeepSpeed's section `zero_optimization` has them."""
        return {
            "reduce_bucket_size": self.reduce,
            "stage3_prefetch_bucket_size": self.ahead,
            "stage3_param_persistence_threshold": self.kept,
            "stage3_max_live_parameters": LIVE,
        }


def held_bytes(hidden: int, total: int, zero_stage: int, width: int) -> dict[str, float]:
    """What one rank holds for reducing and gathering while it trains, by part.

    Args:
        hidden: size of the model.
        total: its parameters.
        zero_stage: gradients are reduced in the precision of the weights; stage 0 has no buffer.
        width: bytes of a weight.
    """
    if zero_stage == 0:
        return {}
    if zero_stage == 1 and width == 2:  # DeepSpeed's BF16_Optimizer: an fp32 copy of gradients, and that in bf16
        return {"reduce bucket": float(min(total, FIXED) * (4 + 2))}
    found = {"reduce bucket": float(Buckets.of(hidden, total).reduce * width)}
    if zero_stage == 3:
        found["gathered weights"] = float(min(total, LIVE) * width)
    return found
