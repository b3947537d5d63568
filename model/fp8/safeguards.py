"""How well tensors survive FP8 (Ling 2.0 report, section 5.1): looked at when asked, by layer and tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from evolpo.model.fp8.formats import Quantised

_LAYER = re.compile(r"\blayers\.(\d+)\.")


@dataclass
class Safeguards:
    """How well tensors survive FP8."""

    underflow: dict[str, float] = field(default_factory=dict)
    """Share of the non-zero elements that become zero; the last one seen."""
    distortion: dict[str, float] = field(default_factory=dict)
    """Cosine similarity between a tensor and what FP8 keeps of it; the last one seen."""

    def record(self, name: str, exact: Tensor, quantised: Quantised) -> None:
        """Look at one quantised tensor."""
        exact, kept = exact.float().flatten(), quantised.dequantise().flatten()
        nonzero = exact != 0
        if nonzero.any():
            self.underflow[name] = float(((kept == 0) & nonzero).sum() / nonzero.sum())
            self.distortion[name] = float(nn.functional.cosine_similarity(exact, kept, dim=0))

    def by_layer(self) -> dict[str, float]:
        """The worst values of a layer by kind of tensor: `TENSOR/layer_N/underflow/max`, `.../similarity/min`."""
        worst: dict[str, float] = {}
        for name, underflow in self.underflow.items():
            layer = _LAYER.search(name)
            place = f"{name.rpartition('.')[2]}/layer_{layer[1] if layer else 0}"
            most, least = f"{place}/underflow/max", f"{place}/similarity/min"
            worst[most] = max(underflow, worst.get(most, 0.0))
            worst[least] = min(self.distortion[name], worst.get(least, 1.0))
        return worst


_watching: Safeguards | None = None


@contextmanager
def watch() -> Iterator[Safeguards]:
    """Record safeguard metrics of all FP8 layers that run inside, forward and backward; costs time."""
    global _watching
    _watching = Safeguards()
    try:
        yield _watching
    finally:
        _watching = None


def watching() -> bool:
    """Whether somebody looks."""
    return _watching is not None


def watched(name: str, exact: Tensor, quantised: Quantised) -> Quantised:
    """The quantised tensor, after a look at it if somebody watches."""
    if _watching is not None:
        _watching.record(name, exact, quantised)
    return quantised
