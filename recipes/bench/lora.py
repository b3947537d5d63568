"""`evolpo bench lora`: adapters against full training on one recipe: memory, bytes of a sync, accuracy by seed.

Every part is a process of its own, one after the other: the supervised start, which all runs share; the three sides of
`lora_side`; a search for the adapters' learning rate; then, seed by seed, a run of all weights and one of adapters.
A part that is done leaves a JSON in the folder beside the output, so that the same command goes on where it was ended;
a run that was under way goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evolpo import InputError
from evolpo.model.files import read_object
from evolpo.recipes.bench.lora_side import SIDES, SideTask
from evolpo.recipes.bench.parts import check_settings
from evolpo.recipes.runs.checks import check_not_negative, check_positive, check_results_file
from evolpo.recipes.runs.lock import locked
from evolpo.rl.checkpoint import list_checkpoints
from evolpo.rl.logs.files import write_json

FIXED = ("experiment", "start", "rank", "steps")
"""Fields that the parts of one folder share."""
WANTED = {"memory_ratio": 0.4, "sync_ratio": 0.05}
"""At most."""
COMMAND = [sys.executable, "-P", "-m", "evolpo.recipes.cli"]


@dataclass
class BenchLoraConfig:
    """`evolpo bench lora`: adapters against full training; the same command goes on where it was ended."""

    experiment: str = "smollm2_arithmetic"
    """Recipe of `evolpo sft` and `evolpo train`; full training takes its learning rate."""
    start: str = ""
    """Model folder that all runs start from; empty: supervised fine-tuning by the recipe makes it."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    """Seeds of the runs of either kind."""
    rank: int = 16
    """Rank of the adapters."""
    rates: list[float] = field(default_factory=lambda: [1e-4, 2e-4, 4e-4, 8e-4])
    """Learning rates of adapters to try; the best is taken. One: no search."""
    search_seed: int = 100
    """Seed of the search, which is none of `seeds`."""
    steps: int = 0
    """Steps of each run; 0: as the recipe says."""
    output: str = "outputs/bench/lora.json"
    """File of the results; the runs and the state are in the folder of the same name."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_positive(self, "rank")
        check_not_negative(self, "steps")
        for name in ("seeds", "rates"):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given) or min(given) < 0:
                raise InputError(f"{name}: {given} are not different and at least 0; give such as {name}=[1,2]")
        if self.search_seed in self.seeds:
            raise InputError(f"search_seed: {self.search_seed} is also in seeds; the search needs one of its own")
        check_results_file(self.output)

    @property
    def folder(self) -> Path:
        """Where the runs and the state lie."""
        return Path(self.output).with_suffix("").resolve()


def bench_lora(config: BenchLoraConfig) -> dict[str, Any]:
    """Do what is not done yet; write the figures after each part, print and return them.

    Returns:
        `memory_ratio`, `sync_ratio`: of adapters to full training, see `SideFigures`; `accuracy_full`, `accuracy_lora`:
        held-out accuracy by seed; `difference`: lora less full, paired by seed; `full`, `lora`: means with Student's
        95% intervals; `learning_rate`; `search`; `sides`; `minutes`; `setting`.

    Raises:
        InputError: the folder holds parts of other settings, or another process works in it.
        RuntimeError: a part failed; the message has the end of its log.
    """
    folder = config.folder
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        check_settings(folder, {name: getattr(config, name) for name in FIXED}, "parts")
        start = config.start or _part(config, "start", ["sft", f"experiment={config.experiment}"])["folder"]
        for side in SIDES:
            _side(config, side, start)
            _write(config)
        rate = _rate(config, start)
        for seed in config.seeds:
            for rank in (0, config.rank):
                _trained(config, start, seed, rank, rate if rank else None)
                report = _write(config)
    print_report(report)
    return report


# -- the parts ----------------------------------------------------------------------------------------------------


def run_name(rank: int, seed: int, rate: float | None) -> str:
    """Of a run's folder and result."""
    return f"lora_{rate:g}_seed_{seed}" if rank else f"full_seed_{seed}"


def _trained(config: BenchLoraConfig, start: str, seed: int, rank: int, rate: float | None) -> dict[str, Any]:
    words = ["train", f"experiment={config.experiment}", f"model.path={start}", f"seed={seed}"]
    words += [f"steps={config.steps}"] if config.steps else []
    words += [f"model.lora.rank={rank}", f"trainer.learning_rate={rate:g}"] if rank and rate else []
    return _part(config, run_name(rank, seed, rate), words)


def _rate(config: BenchLoraConfig, start: str) -> float:
    if len(config.rates) == 1:
        return config.rates[0]
    for rate in config.rates:
        _trained(config, start, config.search_seed, config.rank, rate)
    found = _best(config)
    assert found is not None
    return found


def _best(config: BenchLoraConfig) -> float | None:
    """The rate with the best accuracy in the search, of equals the lowest; None while it is not done."""
    search = _search(config)
    if len(config.rates) > 1 and len(search) < len(config.rates):
        return None
    return max(sorted(config.rates), key=lambda rate: search.get(rate, 0.0))


def _search(config: BenchLoraConfig) -> dict[float, float]:
    found = ((rate, _result(config, run_name(config.rank, config.search_seed, rate))) for rate in config.rates)
    return {rate: float(result["accuracy_after"]) for rate, result in found if result}


def _side(config: BenchLoraConfig, side: str, start: str) -> None:
    file = config.folder / f"side_{side}.json"
    if file.exists():
        return
    task = SideTask(side, start, config.rank, max(config.rates), 4, 8, 72)
    made = file.with_suffix(".part")
    words = [sys.executable, "-P", "-m", "evolpo.recipes.bench.lora_side", json.dumps(asdict(task)), str(made)]
    _call(words, config.folder / f"side_{side}.log", f"measuring: {side}")
    made.rename(file)


def _part(config: BenchLoraConfig, name: str, words: Sequence[str]) -> dict[str, Any]:
    """The result of a run of `evolpo sft` or `evolpo train`, which is done or gone on with if there is none yet."""
    if (done := _result(config, name)) is not None:
        return done
    runs = sorted((config.folder / name).glob("*/"))
    if runs and list_checkpoints(runs[-1]):
        words = [words[0], f"resume={runs[-1]}"]
    else:
        words = [*words, f"name={name}", f"output_dir={config.folder}", "logger.progress=false"]
    began = time.time()
    printed = _call([*COMMAND, *words], config.folder / f"{name}.log", f"{name}: evolpo {' '.join(words)}")
    run = sorted((config.folder / name).glob("*/"))[-1]
    result = {"folder": printed if words[0] == "sft" else str(run), "minutes": (time.time() - began) / 60}
    if (run / "summary.json").exists():
        result |= read_object(run / "summary.json")
    write_json(config.folder / f"{name}.json", result)
    return result


def _result(config: BenchLoraConfig, name: str) -> dict[str, Any] | None:
    file = config.folder / f"{name}.json"
    return read_object(file) if file.exists() else None


def _call(words: Sequence[str], log: Path, title: str) -> str:
    """Run a command with its messages in a file; the last line that it prints."""
    print(f"bench: {title}", file=sys.stderr, flush=True)
    with log.open("a") as stderr:
        done = subprocess.run(
            words,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={"TOKENIZERS_PARALLELISM": "false"} | os.environ,
        )
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise RuntimeError(f"bench: {title}: exit code {done.returncode}; the end of {log}:\n{tail}")
    return (done.stdout.strip().splitlines() or [""])[-1]


# -- what they add up to --------------------------------------------------------------------------------------------


def _write(config: BenchLoraConfig) -> dict[str, Any]:
    rate = _best(config)
    results = {
        name: {seed: found for seed in config.seeds if (found := _result(config, run_name(rank, seed, rate)))}
        for name, rank in (("full", 0), ("lora", config.rank))
        if not rank or rate is not None
    }
    sides = {side: found for side in SIDES if (found := _result(config, f"side_{side}"))}
    search = _search(config)
    report = summarise(
        sides, {name: {s: r["accuracy_after"] for s, r in found.items()} for name, found in results.items()}
    )
    report["minutes"] = {
        n: statistics.median(r["minutes"] for r in found.values()) for n, found in results.items() if found
    }
    report |= {"learning_rate": rate, "search": {f"{one:g}": value for one, value in search.items()}}
    report["setting"] = {name: getattr(config, name) for name in FIXED}
    write_json(Path(config.output), report)
    return report


def summarise(sides: Mapping[str, Mapping[str, Any]], accuracy: Mapping[str, Mapping[int, float]]) -> dict[str, Any]:
    """Ratios and intervals.

    Args:
        sides: figures by side, see `SideFigures`; those that are measured.
        accuracy: by `full` and `lora` and by seed.
    """
    full, lora = accuracy.get("full", {}), accuracy.get("lora", {})
    both = [seed for seed in full if seed in lora]
    report: dict[str, Any] = {"memory_ratio": None, "sync_ratio": None}
    if all(side in sides for side in SIDES):
        report["memory_ratio"] = sides["adapter"]["trainer_bytes"] / sides["full"]["trainer_bytes"]
        report["sync_ratio"] = sides["adapter"]["sync_bytes"] / sides["full"]["sync_bytes"]
    return {
        **report,
        "accuracy_full": dict(full),
        "accuracy_lora": dict(lora),
        "full": _mean(list(full.values())),
        "lora": _mean(list(lora.values())),
        "difference": _mean([lora[seed] - full[seed] for seed in both]),
        "sides": dict(sides),
    }


def _mean(values: Sequence[float]) -> dict[str, Any] | None:
    """Mean and Student's 95% interval, which needs two values; None without any."""
    from scipy import stats

    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "ci95": None}
    half = float(stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5)
    return {"mean": mean, "ci95": [mean - half, mean + half]}


def print_report(report: Mapping[str, Any]) -> None:
    """Print what was found and what is wanted."""
    for name, most in WANTED.items():
        print(f"{name}: {report[name]:.3f}, at most {most} wanted")
    for name, side in report["sides"].items():
        print(
            f"{name}: trainer {side['trainer_bytes'] / 1e9:.2f} GB, sync {side['sync_bytes'] / 1e6:.1f} MB in "
            f"{side['sync_s']:.2f} s, sampling {side['sampled_tokens']} tokens in {side['sample_s']:.1f} s, "
            f"engine and trainer {side['gap_mean']:.1e} nats apart"
        )
    for name in ("full", "lora", "difference"):
        if report[name] is not None:
            interval = report[name]["ci95"]
            spread = "" if interval is None else f", 95% interval {interval[0]:+.3f} to {interval[1]:+.3f}"
            print(f"accuracy, {name}: {report[name]['mean']:+.3f}{spread}")
