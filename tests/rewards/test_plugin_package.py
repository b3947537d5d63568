"""A package that nobody told evolpo about: built, installed and found by its entry point in a fresh process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent / "plugin_package"
PROGRAM = """
import asyncio
from evolpo.rewards import available_rewards, load_reward
from evolpo.rewards.testing import make_group
print(available_rewards()["politeness"])
reward = load_reward("politeness", "use", {"word": "thanks"})
print([one.value for one in asyncio.run(reward.score(make_group("Thanks!", "Bye!")))])
"""


def test_installed_plugin_is_found(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "site"
    shutil.copytree(PACKAGE, source)  # The build leaves files behind.
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", *offline, "--target", str(target), str(source)], check=True
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(target), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["evolpo_politeness:polite", "[1.0, 0.0]"]
