"""Seeds of what is drawn in a run: functions of the run's seed, so that there is no random state to save."""

from __future__ import annotations

import numpy as np


def draw_seed(*path: int) -> int:
    """The seed of one draw: a function of the run's seed and of where in the run it stands."""
    return int(np.random.SeedSequence(path).generate_state(1)[0])
