import sys
from pathlib import Path

import pytest

from evolpo.rewards.service.workers import close_shared_pool

# Worker processes import reward_plugins by name, so its folder must be importable.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def _no_workers_left():
    yield
    close_shared_pool()
