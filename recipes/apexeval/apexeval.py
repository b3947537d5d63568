"""`evolpo apexeval`: the checkpoint to start reinforcement learning from.

Reinforcement learning makes likely what a model can do at all, so what counts at the start is whether one of several
samples is right, in whatever form the answer comes, and not whether the likeliest response is.

Source: ApexEval, Ling 2.0 report (arXiv 2510.22115), section 4.5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from evolpo import InputError
from evolpo.model import load_tokenizer, resolve_precision
from evolpo.recipes.apexeval.checkpoints import check_alike, check_folders, checkpoints_of_run, stored_tensors
from evolpo.recipes.apexeval.rows import Row, draw, figures, pass_levels, ranked, read_rows, tables, write_rows
from evolpo.recipes.runs.checks import check_positive
from evolpo.recipes.runs.context import check_context
from evolpo.recipes.runs.engine import start_engine
from evolpo.recipes.runs.evaluation import EvaluationConfig, evaluation_sampling, judge, sample_by_ranks
from evolpo.recipes.runs.fleet import samplers
from evolpo.recipes.runs.folder import APEXEVAL, check_name, new_run_folder, write_config
from evolpo.recipes.runs.launch import launched
from evolpo.recipes.runs.lock import locked
from evolpo.recipes.runs.parallel import check_model, check_ranks
from evolpo.recipes.runs.resume import saved_config
from evolpo.rewards.stack import RewardError, RewardsConfig, RewardStack
from evolpo.rl.checkpoint import STATE, read_state
from evolpo.rl.data import Group, Prompt
from evolpo.rl.logs.files import write_json
from evolpo.rl.logs.metrics import LoggerConfig
from evolpo.rl.logs.progress import Progress
from evolpo.rollout.engine import RolloutConfig, RolloutEngine, Sampling
from evolpo.rollout.prompts import DataConfig, Problem, encode_problems, split_heldout

VERDICTS = "verdicts.jsonl"
"""One line a finished checkpoint: its figures, and the verdicts on every problem."""
PICTURE = "apexeval.png"


@dataclass
class PassConfig:
    """How often each problem is tried."""

    samples: int = 16
    """Responses to each problem, sampled at `rollout.temperature`."""
    pass_at: list[int] = field(default_factory=lambda: [1, 4, 16])
    """The k of each pass@k; the largest ranks, the smaller ones break ties."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.samples < 2:
            raise InputError(f"evaluation.samples: {self.samples} would be one greedy response; give at least 2")
        if not self.pass_at:
            raise InputError("evaluation.pass_at: is empty; give the k to rank by, e.g. [1,4,16]")
        EvaluationConfig(samples=self.samples, pass_at=self.pass_at)


@dataclass
class ApexEvalConfig:
    """`evolpo apexeval`: the checkpoint to start reinforcement learning from."""

    name: str = "apexeval"
    """Name of the run: its folder is `output_dir/name/TIME`."""
    output_dir: str = "outputs"
    """Folder of all runs."""
    seed: int = 0
    """Seed of the data split, of the choice of problems and of sampling: the same for every checkpoint."""
    run: str = ""
    """Folder of a run whose checkpoints are judged, all of them; or give `checkpoints`."""
    checkpoints: list[str] = field(default_factory=list)
    """Model folders of one architecture."""
    problems: int = 200
    """How many training problems to judge by. Those held out stay untouched, for the final evaluation."""
    processes: int = 0
    """Processes to start on this machine, each with an engine and a share of the problems; 0: one a GPU, or one."""
    resume: str = ""
    """Folder of an ApexEval run to go on with: checkpoints that it has judged are not judged again."""
    precision: str = "auto"
    """bf16, fp32, or auto: bf16 where the hardware multiplies it fast."""
    data: DataConfig = field(default_factory=DataConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    """Judges the samples; its first component says whether a response is right. Best tolerant of form."""
    strict_rewards: RewardsConfig = field(default_factory=RewardsConfig)
    """Judges the greedy response, likewise."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    evaluation: PassConfig = field(default_factory=PassConfig)

    def __post_init__(self) -> None:
        """Check what is judged, and settle the precision."""
        check_name(self.name)
        if bool(self.checkpoints) == bool(self.run):
            raise InputError("checkpoints: give either checkpoints=[A,B,...] or run=FOLDER")
        check_positive(self, "problems")
        self.precision = resolve_precision(self.precision, "precision")


def main(config: ApexEvalConfig) -> None:
    """Run `evolpo apexeval` from the command line: tables of all checkpoints, the run's folder and the best one's."""
    if launched("apexeval", samplers(config.processes, config.rollout.fleet)):
        return
    run, rows = apexeval(config)
    if not rows:
        return
    console = Console(markup=False, highlight=False)
    for table in tables(rows):
        console.print(table)
    print(run, rows[0].checkpoint, sep="\n")


def effective_apexeval_config(config: Any) -> ApexEvalConfig:
    """The configuration as objects, checked; with `resume=RUN` it is that of the run, and nothing may change it.

    Raises:
        InputError: `resume` is no ApexEval run, or another field is given beside it.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    run = Path(config.resume)
    if config.resume:
        others = [one for one in HydraConfig.get().overrides.task if not one.startswith("resume=")]
        if others:
            raise InputError(f"resume: goes on with the configuration of {run}; leave out {', '.join(others)}")
        config = saved_config(run, ApexEvalConfig, "resume")
        config.resume = str(run)
    checked: Any = OmegaConf.to_object(config)
    assert isinstance(checked, ApexEvalConfig)
    return checked


def apexeval(config: ApexEvalConfig) -> tuple[Path, list[Row]]:
    """Judge all checkpoints; returns the folder of the run, and its rows, best first.

    Every rank calls it and samples a share; rank 0 judges, the others have no rows.

    Raises:
        InputError: there is nothing to judge, or the checkpoints are not of one architecture.
    """
    from evolpo.rl.training.distributed import meet

    folders = checkpoints_of_run(config.run) if config.run else [Path(folder) for folder in config.checkpoints]
    check_folders(folders)
    check_context(str(folders[0]), config.data, config.rollout)
    ranks = meet()
    check_ranks(config.rollout.tensor_parallel, ranks.world)
    check_model(config.rollout.tensor_parallel, str(folders[0]))
    with ExitStack() as stack:
        if config.resume and ranks.rank == 0:
            stack.enter_context(locked(Path(config.resume)))
        progress = stack.enter_context(Progress(len(folders), LoggerConfig(), ranks.rank))
        progress.note(f"comparing {len(folders)} checkpoints; loading data and rewards")
        check_alike(folders)
        prompts = _prompts(config, folders)
        tolerant, strict = RewardStack(config.rewards), RewardStack(config.strict_rewards)
        stack.callback(tolerant.close)
        stack.callback(strict.close)
        run = _begun(config, ranks.rank, stack)
        known = {row.checkpoint: row for row in read_rows(run / VERDICTS)}
        rows = [known[str(folder)] for folder in folders if str(folder) in known]
        progress.note(f"run {run}")
        progress.note(f"{len(prompts)} problems, {config.evaluation.samples} samples of each, and a greedy one")

        engine: RolloutEngine | None = None
        for place, folder in enumerate(folders):
            if str(folder) in known:
                progress.note(f"{folder} is judged already")
                continue
            progress.note(f"{'starting vLLM with' if engine is None else 'loading'} {folder}")
            if engine is None:
                engine = start_engine(folder, config.data, config.rollout, config.precision, config.seed)
            else:
                engine.update_weights(stored_tensors(folder), version=place)
            sampled, greedy = (
                sample_by_ranks(ranks, engine, prompts, sampling, config.seed) for sampling in _samplings(config)
            )
            if ranks.rank == 0:
                rows.append(_judge(config, folder, tolerant, sampled, strict, greedy))
                write_rows(run / VERDICTS, rows)
                progress.step(len(rows), {})
                progress.note(_closing(rows[-1]))
    if ranks.rank != 0:
        return run, []
    rows.sort(key=lambda row: [str(folder) for folder in folders].index(row.checkpoint))
    best_first = ranked(rows)
    _write_result(run / APEXEVAL, best_first)
    draw(rows, run / PICTURE)
    return run, best_first


def _prompts(config: ApexEvalConfig, folders: Sequence[Path]) -> list[Prompt]:
    """The problems to judge by, encoded; every checkpoint's own tokenizer must agree on them."""
    problems = selection_problems(config)
    first: list[Prompt] = []
    for folder in folders:
        prompts = [prompt for _, prompt in encode_problems(problems, load_tokenizer(str(folder)), config.data)]
        first = first or prompts
        if [one.token_ids for one in prompts] != [one.token_ids for one in first]:
            raise InputError(
                f"checkpoints: the tokenizers of {folders[0]} and {folder} differ; judge them in runs of their own"
            )
    return first


def selection_problems(config: ApexEvalConfig) -> list[Problem]:
    """`problems` training problems, drawn by the seed of the split; no held-out one is among them.

    Raises:
        InputError: there are not that many.
    """
    problems, _ = split_heldout(config.data, config.seed)
    if config.problems > len(problems):
        raise InputError(f"problems: {config.problems} is more than the {len(problems)} problems to train on; lower it")
    order = np.random.default_rng([config.data.split_seed(config.seed), 3]).permutation(len(problems))
    return [problems[i] for i in sorted(order[: config.problems])]


def _begun(config: ApexEvalConfig, rank: int, stack: ExitStack) -> Path:
    """The folder of the run, a new one or that which goes on; rank 0 makes it."""
    from evolpo.rl.training.distributed import from_rank_0

    if config.resume:
        return Path(config.resume)
    run = Path(from_rank_0(str(new_run_folder(config.output_dir, config.name)) if rank == 0 else ""))
    if rank == 0:
        stack.enter_context(locked(run))
        write_config(run, config)
    return run


def _samplings(config: ApexEvalConfig) -> Iterator[Sampling]:
    """Of the samples and of the greedy response."""
    for samples in (config.evaluation.samples, 1):
        how = EvaluationConfig(samples=samples)
        yield evaluation_sampling(how, config.rollout.max_response_tokens, config.rollout.temperature)


def _judge(
    config: ApexEvalConfig,
    folder: Path,
    tolerant: RewardStack,
    samples: Sequence[Group],
    strict: RewardStack,
    responses: Sequence[Group],
) -> Row:
    sampled = judge(tolerant, samples, EvaluationConfig(samples=config.evaluation.samples))
    greedy = judge(strict, responses, EvaluationConfig())
    pass_at = config.evaluation.pass_at
    found = figures(sampled, greedy, pass_at)
    if found[f"pass@{max(pass_at)}"] is None:
        raise RewardError(f"{folder}: no problem has {max(pass_at)} responses that could be judged")
    step = read_state(folder)["step"] if (folder / STATE).is_file() else None
    return Row(str(folder), step, found, sampled, greedy)


def _closing(row: Row) -> str:
    k = pass_levels(row)[0]
    shares = {name: row.figures[name] for name in (f"pass@{k}", "greedy")}
    words = [f"{name} {math.nan if share is None else share:.1%}" for name, share in shares.items()]
    return f"{row.checkpoint}: {', '.join(words)}"


def _write_result(path: Path, rows: Sequence[Row]) -> None:
    """The figures of all checkpoints, best first."""
    found = [{"checkpoint": row.checkpoint, "step": row.step, **row.figures} for row in rows]
    result = {"best": rows[0].checkpoint, "ranked_by": f"pass@{pass_levels(rows[0])[0]}", "rows": found}
    write_json(path, result)
