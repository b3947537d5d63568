"""How the learning rate falls: after a warmup while training, or simulated afterwards by merging checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

DECAYS: Mapping[str, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "inverse_sqrt": lambda progress: 1 - math.sqrt(progress),
}
"""Share of the peak learning rate, progress running from 0 to 1."""

SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": DECAYS["cosine"],
}
"""Those that training knows after its warmup."""
