"""Same bits whatever threads do and wherever memory lies; tests/recipes/test_same_bits.py holds it of whole runs."""

import os
import subprocess
import sys

import pytest

GRADIENTS = """
import torch
from evolpo.rl.batching import collate
from evolpo.rl.data import Row
from evolpo.rl.training.distributed import init_distributed

torch.set_num_threads(3)
init_distributed()
found = {}
for groups, responses in ((1, 8), (3, 8), (5, 4)):
    rows = [
        Row(group, tuple(range(20)), tuple(range(12 + 7 * r)), (0,) * (12 + 7 * r), 1.0, (-5.0,) * (12 + 7 * r))
        for group in range(groups)
        for r in range(responses)
    ]
    packs = [list(range(group * responses, (group + 1) * responses)) for group in range(groups)]
    predicting = collate(rows, packs, torch.device("cpu")).predicting
    hidden = torch.randn(int(predicting.max()) + 2, 576, requires_grad=True)
    upstream = torch.randn(len(predicting), 576)
    many = [torch.autograd.grad((hidden[predicting] * upstream).sum(), hidden)[0] for _ in range(100)]
    found[groups] = sum(not torch.equal(many[0], one) for one in many)
print(found)
"""

PRODUCTS = """
import evolpo, torch

def shifted(x, by):
    whole = torch.empty(x.numel() + 16)
    part = whole[by : by + x.numel()].view(x.shape)
    return part.copy_(x)

torch.manual_seed(0)
wrong = []
for m, k, n in ((7, 33, 5), (1, 256, 512), (3, 256, 3000), (5, 64, 128), (30, 256, 64)):
    a, b = torch.randn(m, k), torch.randn(n, k)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results = [shifted(a, i) @ shifted(b, j).T for i in range(4) for j in range(4)]
        wrong += [(m, k, n)] * any(not torch.equal(results[0], one) for one in results)
print(wrong)
"""


def run(code: str, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("MKL_CBWR", "OMP_NUM_THREADS")}
    command = [sys.executable, "-c", code]
    return subprocess.check_output(command, text=True, env=clean | environment, stderr=subprocess.DEVNULL).strip()


def test_gradients_of_shared_rows_do_not_depend_on_threads():
    assert run(GRADIENTS).splitlines()[-1] == "{1: 0, 3: 0, 5: 0}"


def test_products_do_not_depend_on_where_memory_lies():
    assert run(PRODUCTS) == "[]"


@pytest.mark.parametrize("name", ["evolpo", "evolpo.rewards", "evolpo.recipes.cli", "evolpo.model"])
def test_every_import_tells_mkl_and_leaves_what_the_user_set(name):
    code = f"import {name}, os, subprocess; print(subprocess.check_output('echo $MKL_CBWR', shell=True, text=True))"
    assert run(code) == "AUTO,STRICT"
    assert run(code, MKL_CBWR="COMPATIBLE") == "COMPATIBLE"
