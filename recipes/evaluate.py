"""`evolpo evaluate`: a model on held-out problems, without a trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evolpo.model import load_tokenizer, model_folder
from evolpo.recipes.config import EvaluateConfig
from evolpo.recipes.runs.context import check_context, check_model_memory
from evolpo.recipes.runs.engine import start_engine
from evolpo.recipes.runs.evaluation import (
    check_component,
    evaluation_metrics,
    evaluation_sampling,
    judge,
    sample_by_ranks,
    write_judged,
)
from evolpo.recipes.runs.fit import check_rewards
from evolpo.recipes.runs.fleet import check_fleet, samplers
from evolpo.recipes.runs.folder import new_run_folder, write_config
from evolpo.recipes.runs.launch import launched
from evolpo.recipes.runs.parallel import check_model, check_ranks
from evolpo.rewards.stack import RewardStack
from evolpo.rl.data import Group
from evolpo.rl.logs.files import write_json
from evolpo.rl.logs.metrics import LoggerConfig
from evolpo.rl.logs.progress import Progress
from evolpo.rollout.prompts import encode_problems, load_heldout


def main(config: EvaluateConfig) -> None:
    """Run `evolpo evaluate` from the command line."""
    if launched("evaluate", samplers(config.processes, config.rollout.fleet)):
        return
    if found := evaluation_run(config):
        print(found)


def evaluation_run(config: EvaluateConfig) -> str:
    """Evaluate, write `evaluation.json` and the verdicts a problem into the run's folder, and return both as text.

    Every rank calls it and samples a share; rank 0 judges, the others return nothing.
    """
    from evolpo.rl.training.distributed import from_rank_0, meet

    ranks = meet()
    with Progress(1, LoggerConfig(), ranks.rank) as progress:
        path = model_folder(config.model)
        check_context(path, config.data, config.rollout)
        check_ranks(config.rollout.tensor_parallel, ranks.world)
        check_model(config.rollout.tensor_parallel, path)
        check_model_memory(path, config.precision, False, ranks.world, engine_ranks=config.rollout.tensor_parallel)
        check_fleet(path, config.rollout, config.precision)
        problems = load_heldout(config.data, config.seed, progress.note)
        rewards = RewardStack(config.rewards)
        check_component(config.evaluation, rewards.names)
        check_rewards(rewards, config.data, [], problems)
        tokenizer = load_tokenizer(path)
        prompts = [one for _, one in encode_problems(problems, tokenizer, config.data, progress.note, "data.heldout")]
        run = Path(from_rank_0(str(_begun(config)) if ranks.rank == 0 else ""))
        progress.note(f"{len(prompts)} held-out problems; starting vLLM with {path}")
        engine = start_engine(path, config.data, config.rollout, config.precision, config.seed, note=progress.note)
        progress.note("evaluating")
        sampling = evaluation_sampling(
            config.evaluation, config.rollout.max_response_tokens, config.rollout.temperature
        )
        groups = sample_by_ranks(ranks, engine, prompts, sampling, config.seed)
        text = "" if ranks.rank else _judged(config, rewards, groups, run)
        rewards.close()
    return text


def _begun(config: EvaluateConfig) -> Path:
    """The folder of a new run, with its configuration."""
    run = new_run_folder(config.output_dir, config.name)
    write_config(run, config)
    return run


def _judged(config: EvaluateConfig, rewards: RewardStack, groups: Sequence[Group], run: Path) -> str:
    """Judge what was sampled, write the figures and the verdicts, and return the figures as text."""
    judged = judge(rewards, groups, config.evaluation)
    metrics = evaluation_metrics(judged, config.evaluation)
    metrics |= {f"eval/{name}": value for name, value in rewards.last_metrics.items() if name.endswith("/mean")}
    write_judged(run / "judged.jsonl", judged)
    write_json(run / "evaluation.json", metrics)
    lines = [f"{name:28} {value:.4f}" for name, value in metrics.items()]
    return "\n".join([*lines, str(run)])
