"""`evolpo bench fp8`: ling_nano trained in BF16 and in FP8 on the same data from the same weights, step by step.

Training amplifies any rounding, and a mixture of experts amplifies it most: a token near the border between two experts
goes to the other one. So a third run, the control, is BF16 again with the sequences of every batch in reverse order,
which changes nothing but the last bits of the sums. What FP8 costs is what its curve differs by beyond the control's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evolpo import InputError
from evolpo.model.config import preset
from evolpo.model.experts import Experts
from evolpo.model.fp8.layers import use_fp8
from evolpo.model.fp8.safeguards import Safeguards, watch
from evolpo.model.ling import BailingMoeV2ForCausalLM
from evolpo.model.nano import make_tokenizer
from evolpo.recipes.runs.checks import check_positive
from evolpo.rl.logs.metrics import LoggerConfig
from evolpo.rl.logs.progress import Progress

RUNS = ("bf16", "control", "fp8")
SMOOTHING = 20
"""Steps over which losses are averaged before they are compared: the loss of one batch is mostly chance."""


@dataclass
class BenchFp8Config:
    """`evolpo bench fp8`: the loss of FP8 training beside that of BF16."""

    steps: int = 1000
    """Optimizer steps of each."""
    sequences: int = 8
    """Sequences in a step."""
    length: int = 128
    """Tokens of a sequence."""
    learning_rate: float = 3e-4
    """Learning rate of AdamW after the warmup."""
    warmup_steps: int = 50
    """Steps over which the learning rate rises."""
    save_every: int = 100
    """Steps between the states from which an interrupted run goes on."""
    seed: int = 0
    """Seed of weights and data."""
    output: str = "outputs/bench/fp8.json"
    """File of the results; the curves, the plots and the state are put beside it."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_positive(self, "steps", "sequences", "length", "save_every", "learning_rate")


class Side:
    """One of the runs: a model in bfloat16, fp32 master weights, and Adam on them."""

    def __init__(self, config: BenchFp8Config, fp8: bool) -> None:
        torch.manual_seed(config.seed)
        sizes = {"num_nextn_predict_layers": 0, "initializer_range": 0.02}
        self.model = BailingMoeV2ForCausalLM(preset("ling_nano", **sizes)).bfloat16()
        if fp8:
            use_fp8(self.model)
        self.weights = list(self.model.parameters())
        self.masters = [weight.detach().float() for weight in self.weights]
        self.optimizer = torch.optim.AdamW(self.masters, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
        self.config = config

    def step(self, step: int, ids: Tensor) -> float:
        """Train on one batch [B, L]; its loss in nats a token before the step."""
        loss = self.model(ids, labels=ids).loss
        loss.backward()
        for master, weight in zip(self.masters, self.weights, strict=True):
            assert weight.grad is not None
            master.grad, weight.grad = weight.grad.float(), None
        nn.utils.clip_grad_norm_(self.masters, 1.0)
        warmup = min(1.0, (step + 1) / max(self.config.warmup_steps, 1))
        self.optimizer.param_groups[0]["lr"] = self.config.learning_rate * warmup
        self.optimizer.step()
        for master, weight in zip(self.masters, self.weights, strict=True):
            weight.data.copy_(master)
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {"masters": self.masters, "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for master, weight, saved in zip(self.masters, self.weights, state["masters"], strict=True):
            master.copy_(saved)
            weight.data.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])


def token_stream() -> Tensor:
    """The language reference that comes with Python as one line of tokens: real text, at hand on every machine."""
    from pydoc_data.topics import topics

    tokenizer = make_tokenizer(preset("ling_nano").vocab_size)
    return torch.tensor(tokenizer("\n".join(topics[name] for name in sorted(topics)))["input_ids"])


def batch(stream: Tensor, config: BenchFp8Config, step: int) -> Tensor:
    """[B, L] tokens of a step, drawn by seed and step."""
    starts = np.random.default_rng([config.seed, step]).integers(0, len(stream) - config.length, config.sequences)
    return torch.stack([stream[start : start + config.length] for start in starts])


def main(config: BenchFp8Config) -> None:
    """Run `evolpo bench fp8` from the command line: the figures in a few lines."""
    report = bench_fp8(config)
    print(f"loss gap: largest {report['loss_gap_max']:.3%}, mean {report['loss_gap_mean']:.3%}")
    print(f"BF16 again: largest {report['control_gap_max']:.3%}, mean {report['control_gap_mean']:.3%}")
    print(f"kept for the backward pass: {report['saved_bytes_ratio']:.3f} of BF16\n{config.output}")


def bench_fp8(config: BenchFp8Config) -> dict[str, Any]:
    """Train both, write and return the figures, the curves and the plots; goes on where an earlier call stopped.

    Returns:
        `loss_gap_max`, `loss_gap_mean`: |FP8 - BF16| / BF16 of the smoothed losses, over all steps after the warmup;
        `control_gap_max`, `control_gap_mean`: the same of the control; `loss_bf16`, `loss_control`, `loss_fp8`: at the
        end; `saved_bytes_ratio`: what the linear layers keep for the
        backward pass, FP8 over BF16; `steps`; `safeguards`: worst values and where; `setting`.
    """
    output = Path(config.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    stream = token_stream()
    sides = {name: Side(config, name == "fp8") for name in RUNS}
    state_file = output.with_suffix(".state.pt")
    losses: dict[str, list[float]] = {name: [] for name in RUNS}
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        if state["setting"] != _setting(config):
            raise InputError(f"output: {state_file} is of another configuration; remove it or give another output")
        losses = state["losses"]
        for name, side in sides.items():
            side.load(state[name])
    with Progress(config.steps, LoggerConfig()) as progress:
        for step in range(len(losses["bf16"]), config.steps):
            ids = batch(stream, config, step)
            for name, side in sides.items():
                losses[name].append(side.step(step, ids.flip(0) if name == "control" else ids))
            progress.step(step + 1, {f"loss {name}": losses[name][-1] for name in RUNS})
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                _save(state_file, config, losses, sides)
    seen = safeguards(sides["fp8"].model, batch(stream, config, config.steps))
    kept = {name: saved_bytes(sides[name].model, batch(stream, config, 0)) for name in ("bf16", "fp8")}
    report = figures(losses, config) | {
        "saved_bytes_ratio": kept["fp8"] / kept["bf16"],
        "saved_bytes": kept,
        "steps": config.steps,
        "safeguards": worst_values(seen),
        "setting": _setting(config),
    }
    output.write_text(json.dumps(report, indent=2) + "\n")
    output.with_suffix(".curves.json").write_text(json.dumps(losses) + "\n")
    plot_losses(losses, output.with_suffix(".png"))
    plot_safeguards(seen, output.with_suffix(".safeguards.png"))
    return report


def _setting(config: BenchFp8Config) -> dict[str, Any]:
    return {name: value for name, value in asdict(config).items() if name not in ("output", "save_every", "steps")}


def _save(file: Path, config: BenchFp8Config, losses: dict[str, list[float]], sides: dict[str, Side]) -> None:
    state = {"setting": _setting(config), "losses": losses} | {name: side.state() for name, side in sides.items()}
    scratch = file.with_suffix(".tmp")
    torch.save(state, scratch)
    scratch.replace(file)


def smooth(losses: list[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Means over windows of `SMOOTHING` steps."""
    window = min(SMOOTHING, len(losses))
    return np.convolve(losses, np.full(window, 1 / window), "valid")


def figures(losses: dict[str, list[float]], config: BenchFp8Config) -> dict[str, float]:
    """The relative gaps between the curves."""
    begin = min(config.warmup_steps, len(losses["bf16"]) - 1)
    curves = {name: smooth(values[begin:]) for name, values in losses.items()}
    gaps = {name: (curve - curves["bf16"]) / curves["bf16"] for name, curve in curves.items()}
    return {
        "loss_gap_max": float(np.abs(gaps["fp8"]).max()),
        "loss_gap_mean": float(np.abs(gaps["fp8"]).mean()),
        "loss_gap_signed_mean": float(gaps["fp8"].mean()),
        "control_gap_max": float(np.abs(gaps["control"]).max()),
        "control_gap_mean": float(np.abs(gaps["control"]).mean()),
    } | {f"loss_{name}": float(curve[-1]) for name, curve in curves.items()}


@contextmanager
def _counting(into: dict[int, int], weights: set[int]) -> Iterator[None]:
    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            into[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


def saved_bytes(model: BailingMoeV2ForCausalLM, ids: Tensor) -> int:
    """Bytes that the products of linear layers and experts keep for the backward pass, each storage once."""
    storages: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def counted(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Any) -> Tensor:
            with _counting(storages, weights):
                return function(*args)

        return call

    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not model.lm_head]
    for linear in layers:
        linear.forward = counted(linear.forward)  # type: ignore[method-assign]
    experts = [m for m in model.modules() if isinstance(m, Experts)]
    for mixture in experts:
        mixture.grouped = counted(mixture.grouped)  # type: ignore[method-assign]
    try:
        result = model(ids).logits  # alive while its storages are told apart by address
    finally:
        for linear in layers:
            del linear.forward
        for mixture in experts:
            del mixture.grouped
    assert result.requires_grad
    return sum(storages.values())


def safeguards(model: BailingMoeV2ForCausalLM, ids: Tensor) -> Safeguards:
    """Underflow and distortion of every tensor of every FP8 layer in one forward and backward pass."""
    with watch() as seen:
        model(ids, labels=ids).loss.backward()
    model.zero_grad()
    return seen


def worst_values(seen: Safeguards) -> dict[str, Any]:
    """The largest underflow and the smallest similarity, and where they are."""
    lost = max(seen.underflow, key=lambda name: seen.underflow[name])
    bent = min(seen.distortion, key=lambda name: seen.distortion[name])
    return {
        "underflow_max": seen.underflow[lost],
        "underflow_where": lost,
        "cosine_min": seen.distortion[bent],
        "cosine_where": bent,
    }


def plot_losses(losses: dict[str, list[float]], file: Path) -> None:
    """The curves, and their relative gaps below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    curves = {name: smooth(losses[name]) for name in RUNS}
    steps = np.arange(len(curves["bf16"])) + min(SMOOTHING, len(losses["bf16"]))
    for name, style in zip(RUNS, ("-", ":", "--"), strict=True):
        above.plot(steps, curves[name], style, label={"bf16": "BF16", "control": "BF16 again", "fp8": "FP8"}[name])
    above.set_ylabel("loss, nats a token")
    above.set_yscale("log")
    above.legend()
    for name, colour in (("control", "tab:orange"), ("fp8", "tab:green")):
        below.plot(steps, 100 * (curves[name] / curves["bf16"] - 1), color=colour)
    below.axhspan(-0.25, 0.25, alpha=0.15)
    below.set_ylabel("against BF16, %")
    below.set_xlabel(f"step (mean of {SMOOTHING})")
    figure.savefig(file, dpi=150)


def plot_safeguards(seen: Safeguards, file: Path) -> None:
    """Underflow and distortion by layer, one line a kind of tensor."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in seen.distortion))
    for kind in ("x", "w", "dy", "x_t", "dy_t"):
        known = [i for i, layer in enumerate(layers) if f"{layer}.{kind}" in seen.distortion]
        above.plot(known, [seen.underflow[f"{layers[i]}.{kind}"] for i in known], ".-", label=kind)
        below.plot(known, [1 - seen.distortion[f"{layers[i]}.{kind}"] for i in known], ".-", label=kind)
    above.set_ylabel("underflow, share")
    below.set_ylabel("1 - cosine similarity")
    below.set_yscale("log")
    names = [layer.removeprefix("model.layers.") for layer in layers]
    below.set_xticks(range(len(layers)), names, rotation=90, fontsize=6)
    above.legend(ncols=5)
    figure.savefig(file, dpi=150)
