"""Same bits whatever threads do and wherever memory lies; tests/recipes/test_same_bits.py holds it of whole runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import write_tiny_ling

from evolpo import InputError
from evolpo.rl.training.config import TrainerConfig
from evolpo.rl.training.determinism import ENVIRONMENT, fix_order_on_gpu

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

ENTRIES = """
import os, sys, tempfile
from types import SimpleNamespace
import torch

torch.cuda.is_available = lambda: True
torch.cuda.get_device_capability = lambda *_: (9, 0)
from evolpo.recipes import sft, train
from evolpo.recipes.compare import compare
from evolpo.recipes.config import SftConfig, TrainConfig
from evolpo.recipes.runs import engine
from evolpo.recipes.training import assembly
from evolpo.rl.training import distributed
from evolpo.rl.training.config import TrainerConfig
from evolpo.rl.training.determinism import ENVIRONMENT


class Reached(Exception):
    pass


def reached(*_, **__):
    strict = torch.get_deterministic_debug_mode() == 2
    print("->", [os.environ.get(name) for name in ENVIRONMENT], strict, "vllm" in sys.modules)
    raise Reached


def plain():
    torch.use_deterministic_algorithms(False)
    for name in ENVIRONMENT:
        os.environ.pop(name, None)


assembly._data_and_rewards = sft.load_examples = distributed.init_distributed = reached
for deterministic in (False, True):
    trainer = TrainerConfig(deterministic=deterministic, precision="bf16")
    run = SimpleNamespace(config=TrainConfig(trainer=trainer))
    for call in (
        lambda: train.train(run.config),
        lambda: sft.sft(SftConfig(trainer=trainer)),
        lambda: compare._engine(run),
    ):
        plain()
        try:
            call()
        except Reached:
            pass
"""

STEPS = """
import sys
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from trainer_worker import Job, batch_of

from evolpo.rl.losses import LOSSES, LossOptions
from evolpo.rl.trainer import Trainer
from evolpo.rl.training.config import TrainerConfig

# Of what PyTorch's page of use_deterministic_algorithms says that it raises on a GPU: what could come up here.
RAISES = ("put_", "histc", "kthvalue", "nll_loss2d_forward", "grid_sampler_2d_backward", "_embedding_bag_backward")


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found, self.count = set(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        name, _, overload = function.__name__.partition(".")
        weighed = name == "bincount" and len(args) > 1 and args[1] is not None
        summed = name == "cumsum" and args[0].dtype.is_floating_point
        product = name == "scatter_reduce" and "prod" in args
        if name in RAISES or weighed or summed or product or (name == "median" and overload == "dim"):
            self.found.add(function.__name__)
        return function(*args, **(kwargs or {}))


torch.cumsum(torch.zeros(3), 0)
with Seen() as seen:
    torch.cumsum(torch.zeros(3), 0)
print("->", seen.found)
with Seen() as seen:
    for model in sys.argv[1:]:
        config = TrainerConfig(precision="fp32", activation_checkpointing=True)
        options = LossOptions(kl_coef=0.1, correction="tis")
        trainer = Trainer(model, config, total_updates=9, options=options, reference_path=model)
        torch.use_deterministic_algorithms(True)
        for number, loss in enumerate(LOSSES.values()):
            trainer.update(batch_of(Job("", "", {}), number, 0), loss, 2)
print("->", seen.count > 10_000, seen.found)
"""


def run(code: str, *words: str, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("MKL_CBWR", "OMP_NUM_THREADS")}
    command = [sys.executable, "-c", code, *words]
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


def test_a_gpu_is_told_before_anything_runs_on_it():
    """Data, ranks and engine come next in all three ways into a trainer; what a rank finds is what its process has."""
    off, on = "-> [None, None, None] False False", f"-> {list(ENVIRONMENT.values())} True False"
    assert [line for line in run(ENTRIES).splitlines() if line.startswith("->")] == [off] * 3 + [on] * 3


@pytest.fixture
def hopper(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))


def test_what_has_no_fixed_order_is_refused(hopper, monkeypatch):
    assert TrainerConfig(precision="bf16", deterministic=True).deterministic
    with pytest.raises(InputError, match=r"^trainer.deterministic: .* in FP8; trainer.fp8=false$"):
        TrainerConfig(precision="bf16", deterministic=True, fp8=True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    with pytest.raises(InputError, match=r"^trainer.deterministic: needs a Hopper GPU .* this is NVIDIA H100; false$"):
        TrainerConfig(precision="bf16", deterministic=True)
    assert not TrainerConfig(precision="bf16").deterministic


def test_vllm_that_was_imported_without_it_is_refused(hopper, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", torch)
    monkeypatch.delenv("VLLM_BATCH_INVARIANT", raising=False)
    with pytest.raises(InputError, match=r"^trainer.deterministic: vLLM .* set VLLM_BATCH_INVARIANT=1 CUBLAS"):
        fix_order_on_gpu(True)
    fix_order_on_gpu(False)


def test_whole_steps_use_nothing_that_a_gpu_would_refuse(tiny_model_path, tmp_path):
    """Every loss, with a penalty and importance weights, on two models, in the strict mode of PyTorch."""
    write_tiny_ling(tmp_path, 2)
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    lines = run(STEPS, tiny_model_path, str(tmp_path), PYTHONPATH=path).splitlines()
    assert [line for line in lines if line.startswith("->")] == ["-> {'cumsum.default'}", "-> True set()"]
