"""A gradient that is not finite moves nothing, is counted, and the next step goes on: every stage, both precisions."""

import json
import subprocess
import sys

import pytest

STEPS = """
import json, math, sys
import torch
from dataclasses import replace
from evolpo.rl.data import Batch, Row
from evolpo.rl.losses import LOSSES
from evolpo.rl.trainer import Trainer
from evolpo.rl.training.config import TrainerConfig
from evolpo.rl.training.distributed import init_distributed

init_distributed()
rows = [Row(i, (1, 2, 3), (4 + i, 5, 6, 7), (0, 0, 1, 1), 1.0 - 2 * i, (-5.0,) * 4) for i in (0, 1)]
broken = [replace(rows[0], advantage=float(sys.argv[2])), rows[1]]
found = {}
for stage in (0, 1, 2, 3):
    for precision in ("fp32", "bf16"):
        config = TrainerConfig(zero_stage=stage, precision=precision, learning_rate=1e-2, weight_decay=0.1)
        trainer = Trainer(sys.argv[1], config, total_updates=3)
        before = [one.clone() for one in trainer.master_tensors()]
        first = trainer.update(Batch(tuple(broken)), LOSSES["grpo"]).metrics
        stood = all(torch.equal(a, b) for a, b in zip(before, trainer.master_tensors(), strict=True))
        second = trainer.update(Batch(tuple(rows)), LOSSES["grpo"]).metrics
        after = trainer.master_tensors()
        moved = any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        finite = all(bool(one.isfinite().all()) for one in after)
        found[f"{stage} {precision}"] = [
            stood, moved, finite, first["updates/skipped"], second["updates/skipped"],
            "grad_norm" in first, second["grad_norm"] > 0, second["entropy"],
        ]
print(json.dumps(found))
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_it_is_skipped_and_counted(tiny_model_path, value):
    done = subprocess.run(
        [sys.executable, "-c", STEPS, tiny_model_path, value], capture_output=True, text=True, check=False, timeout=580
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 8
    for case, (stood, moved, finite, first, second, normed, norm, entropy) in found.items():
        assert (stood, moved, finite) == (True, True, True), case
        assert (first, second) == (1.0, 0.0), case
        assert not normed, case
        assert norm, case
        assert 0 < entropy < 5.71, case  # log of the vocabulary
