"""vLLM beside transformers on families that differ in kind; all of them by hand, see docs/models.md.

Each is read from a checkpoint that we wrote, then gets new weights, then the old ones again.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("served_family.py")
KINDS = {
    "gemma2": "a window in every other layer, capped scores and logits, tied",
    "mixtral": "experts that transformers stacks and renames",
    "gpt_oss": "sinks, and experts that vLLM writes past its loaders",
    "deepseek_v3": "latent attention, and biases of experts",
    "olmo3": "run by transformers' own class, which the trainer uses as well",
}


@pytest.mark.slow
@pytest.mark.parametrize("family", KINDS)
def test_checkpoints_and_new_weights_arrive(family, tmp_path):
    paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(WORKER), family, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result.pop("as_before")
    assert max(result.values()) < 1e-4, result
