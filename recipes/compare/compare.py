"""`evolpo compare`: algorithms against each other, over seeds, in engines that are started once.

The command checks the plan, starts workers and writes the report. A worker is one process with one engine: it takes
one run after the other, whichever is free, and trains it as `evolpo train` would. After a failed run its process is
replaced by a new one, since nothing is known about the state of an engine in which something went wrong.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import yaml

from evolpo import InputError
from evolpo.recipes.arguments.words import words_again
from evolpo.recipes.compare.plan import (
    ALGORITHMS,
    CompareConfig,
    PlannedRun,
    best_factor,
    planned_run,
    published_runs,
    search_runs,
    study_folder,
    tuned_runs,
)
from evolpo.recipes.compare.runs import ComparedRun, compared_run
from evolpo.recipes.compare.state import (
    begin,
    check_same_settings,
    check_same_versions,
    claimed,
    fail,
    finish,
    forget_failures,
    last_line,
    read_summary,
    settle,
    state,
)
from evolpo.recipes.runs.dry_run import dry_run
from evolpo.recipes.runs.folder import write_config
from evolpo.recipes.runs.launch import threads_each, worker_environment
from evolpo.rl.logs.files import write_json
from evolpo.rl.logs.metrics import LoggerConfig
from evolpo.rl.logs.progress import Progress
from evolpo.rollout.engine import RolloutEngine

WAIT_S = 2.0
"""Seconds until a worker looks again whether a run is free."""
EVOLPO = [sys.executable, "-P", "-m", "evolpo.recipes.cli", "compare"]
STATUS = {"done": "ok", "failed": "failed", "started": "pending", "pending": "pending"}


def compare(config: CompareConfig) -> None:
    """Run `evolpo compare`, or the part of it that a job of hydra or a worker's process does.

    Raises:
        InputError: the comparison would not be fair, or its folder holds results of another one.
        SystemExit: some runs failed or were left; the report of the others is written.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if config.worker < 0:
        _compare(config)
    elif HydraConfig.get().mode == RunMode.MULTIRUN:
        _supervise(config, config.worker)
    else:
        work(config)


def chosen_factors(config: CompareConfig) -> dict[str, float | None]:
    """The clip factor of each algorithm whose search is over; None where no factor got through it."""
    accuracies: dict[str, dict[float, list[float | None]]] = {}
    unfinished = set()
    for run in search_runs(config):
        known = state(run.folder)
        if known not in ("done", "failed"):
            unfinished.add(run.algorithm)
        accuracy = read_summary(run.folder)["accuracy_after"] if known == "done" else None
        accuracies.setdefault(run.algorithm, {}).setdefault(run.factor, []).append(accuracy)
    return {name: best_factor(by_factor) for name, by_factor in accuracies.items() if name not in unfinished}


def all_runs(config: CompareConfig) -> list[PlannedRun]:
    """Every run known so far, in order of work; the second table's follow when the search is over."""
    runs = [*published_runs(config), *search_runs(config), *tuned_runs(config, chosen_factors(config))]
    return list({run.folder: run for run in runs}.values())


# -- the command -----------------------------------------------------------------------------------------------------


def _compare(config: CompareConfig) -> None:
    progress = Progress(0, config.logger)
    runs = all_runs(config)
    checked = dry_run(replace(runs[0].config, output_dir=config.output_dir))
    for run in runs:
        check_same_settings(run)
    seeds = f"{len(config.algorithms)} algorithms x {len(config.seeds)} seeds"
    plan = f"{seeds}, {len(search_runs(config))} runs of the search, {config.workers} at a time"
    if config.dry_run:
        print(f"{checked}\n{plan}")
        return
    study = study_folder(config)
    versions = check_same_versions(study)
    write_config(study, config)
    retried = forget_failures(runs)
    done = sum(state(run.folder) == "done" for run in runs)
    progress.note(f"comparison {study}: {plan}; {done} done before, {retried} failed and tried again")
    if without := _without_refills(config):
        progress.note(f"{', '.join(without)}: no refills, so that all sample the same; see algorithm.max_refills")
    if done < len(runs):
        _start_workers(config)
    settle(all_runs(config))
    _report(config, versions)


def _without_refills(config: CompareConfig) -> list[str]:
    """Entries whose algorithm would refill groups by itself."""
    files = {entry: ALGORITHMS / f"{entry.partition(':')[0]}.yaml" for entry in config.algorithms}
    wanted = {entry: yaml.safe_load(file.read_text()).get("max_refills", 0) for entry, file in files.items()}
    return [entry for entry, refills in wanted.items() if refills > config.algorithm.max_refills]


def _start_workers(config: CompareConfig) -> None:
    """Start the workers and wait: one by itself, several as jobs of hydra's launcher, joblib unless another is set."""
    from hydra.core.hydra_config import HydraConfig

    if config.workers == 1:
        _supervise(config, 0)
        return
    job = HydraConfig.get()
    launcher = job.runtime.choices["hydra/launcher"]
    options = [one for one in job.overrides.hydra if not one.startswith("hydra.mode=")]
    environment = dict(os.environ)
    if launcher == "basic":  # hydra's own, one job after the other
        if importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is None:
            raise InputError("workers: more than 1 needs a launcher of hydra; pip install 'evolpo[launchers]'")
        options += ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={config.workers}"]
    if launcher in ("basic", "joblib"):
        environment.setdefault("OMP_NUM_THREADS", str(threads_each(config.workers)))
    numbers = ",".join(map(str, range(config.workers)))
    command = [*EVOLPO, "--multirun", *words_again(job.overrides.task), f"worker={numbers}", *options]
    if code := subprocess.call(command, env=environment):
        print(f"evolpo: the jobs of hydra ended with exit code {code}", file=sys.stderr)


def _supervise(config: CompareConfig, worker: int) -> None:
    """Keep a worker's process going until no run is left; each failed run costs it its process."""
    from hydra.core.hydra_config import HydraConfig

    overrides = [one for one in words_again(HydraConfig.get().overrides.task) if not one.startswith("worker=")]
    command = [*EVOLPO, *overrides, f"worker={worker}"]
    while True:
        before = _failures(config)
        code = subprocess.call(command, env=worker_environment(worker))
        if code == 0:
            return
        if _failures(config) <= before:
            print(f"evolpo: worker {worker} ended with exit code {code} outside of any run", file=sys.stderr)
            return


def _failures(config: CompareConfig) -> int:
    runs = all_runs(config)
    settle(runs)
    return sum(state(run.folder) == "failed" for run in runs)


# -- a worker --------------------------------------------------------------------------------------------------------


def work(config: CompareConfig) -> None:
    """Train one free run after the other in one engine, until none is left and none can come.

    Raises:
        SystemExit: a run failed.
    """
    engine: RolloutEngine | None = None
    while True:
        runs = all_runs(config)
        settle(runs)
        left = [run for run in runs if state(run.folder) in ("pending", "started")]
        if not left:
            return
        for run in left:
            with claimed(run.folder) as mine:
                if mine and state(run.folder) == "pending":
                    engine = engine or _engine(run)
                    _train(config, run, engine)
                    break
        else:
            time.sleep(WAIT_S)  # what others are doing may fail, or decide what comes next


def _engine(run: PlannedRun) -> RolloutEngine:
    from evolpo.model import model_folder
    from evolpo.recipes.runs.engine import start_engine
    from evolpo.rl.training.determinism import fix_order_on_gpu
    from evolpo.rl.training.distributed import init_distributed

    config = run.config
    fix_order_on_gpu(config.trainer.deterministic)
    init_distributed()
    return start_engine(model_folder(config.model), config.data, config.rollout, config.trainer.precision, config.seed)


def _train(config: CompareConfig, run: PlannedRun, engine: RolloutEngine) -> None:
    from evolpo.recipes.train import train

    progress = Progress(0, config.logger)
    goes_on = begin(run.folder)
    progress.note(f"{run.title} {'goes on' if goes_on else 'begins'}")
    try:
        train(replace(run.config, resume=str(run.folder)) if goes_on else run.config, engine, run.folder)
    except Exception as error:
        fail(run.folder, traceback.format_exc())
        progress.note(f"{run.title} failed: {last_line(run.folder)}")
        raise SystemExit(1) from error
    finish(run.folder, config.keep_models)
    gc.collect()  # parts of a trainer refer to each other; the next one needs their memory
    summary, runs = read_summary(run.folder), all_runs(config)
    done = sum(state(one.folder) == "done" for one in runs)
    accuracy = f"held-out {summary['accuracy_before']:.1%} -> {summary['accuracy_after']:.1%}"
    progress.note(f"{run.title} done: {accuracy}, {summary['minutes']:.1f} min, {done} of {len(runs)}")


# -- the report ------------------------------------------------------------------------------------------------------


def compared_runs(config: CompareConfig) -> list[ComparedRun]:
    """The runs of both tables with what they measured."""
    found = [_compared("published", run) for run in published_runs(config)]
    if not config.search.clip_factors:
        return found
    factors = chosen_factors(config)
    for name in config.algorithms:
        factor = factors.get(name)
        if factor is not None:
            found += [_compared("tuned", planned_run(config, name, factor, seed)) for seed in config.seeds]
        else:
            status, error = ("failed", "every clip range of the search failed") if name in factors else ("pending", "")
            found += [ComparedRun("tuned", name, seed, "", status, error, (), {}, {}) for seed in config.seeds]
    return found


def _compared(table: str, run: PlannedRun) -> ComparedRun:
    status = STATUS[state(run.folder)]
    return compared_run(table, run.algorithm, run.seed, run.folder, status, last_line(run.folder))


def write_search(config: CompareConfig, path: Path) -> None:
    """Write what each clip factor reached with each seed of the search, and which was chosen; null is not known."""
    factors = chosen_factors(config)
    found = {
        name: {
            "chosen": factors.get(name),
            "accuracy": {
                f"{factor:g}": {seed: _accuracy(config, name, factor, seed) for seed in config.search.seeds}
                for factor in config.search.clip_factors
            },
        }
        for name in config.algorithms
    }
    write_json(path, found)


def _accuracy(config: CompareConfig, name: str, factor: float, seed: int) -> float | None:
    folder = planned_run(config, name, factor, seed).folder
    return float(read_summary(folder)["accuracy_after"]) if state(folder) == "done" else None


def _report(config: CompareConfig, versions: Mapping[str, str]) -> None:
    from hydra.core.hydra_config import HydraConfig

    from evolpo.recipes.compare.report import write_comparison

    study, runs = study_folder(config), compared_runs(config)
    if config.search.clip_factors:
        write_search(config, study / "search.json")
    command = shlex.join(["evolpo", "compare", *words_again(HydraConfig.get().overrides.task)])
    Progress(0, LoggerConfig()).note("writing the report")
    page = write_comparison(runs, study, config.name, command, list(versions.items()))
    for table in dict.fromkeys(run.table for run in runs):
        print("\n".join(_table(table, [run for run in runs if run.table == table])))
    print(page)
    broken = [run for run in all_runs(config) if state(run.folder) != "done"]
    if broken:
        named = ", ".join(f"{run.title} ({state(run.folder)})" for run in broken)
        print(f"evolpo: {len(broken)} runs are missing: {named}; the same command tries them again", file=sys.stderr)
        raise SystemExit(1)


def _table(title: str, runs: list[ComparedRun]) -> list[str]:
    """Held-out accuracy after training by algorithm: interquartile mean over seeds and its 95% interval."""
    import numpy as np

    from evolpo.recipes.compare.statistics import iqm

    accuracies: dict[str, list[list[float]]] = {}
    for run in runs:
        if run.status == "ok":
            judged = run.evaluations[max(run.evaluations)]
            accuracies.setdefault(run.algorithm, []).append([float(np.mean([one.accuracy for one in judged]))])
    lines = [f"{title} clip ranges: held-out accuracy, interquartile mean over seeds, 95% interval"]
    for name, found in iqm({name: np.array(values) for name, values in accuracies.items()}).items():
        interval = "" if found.interval is None else f"  {found.interval[0]:.1%} to {found.interval[1]:.1%}"
        lines.append(f"  {name:24} {found.value:.1%}{interval}  ({found.runs} seeds)")
    return lines
