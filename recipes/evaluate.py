"""`evolpo evaluate`: a model on held-out problems, without a trainer."""

from __future__ import annotations

from evolpo.model import load_tokenizer, model_folder
from evolpo.recipes.config import EvaluateConfig
from evolpo.recipes.runs.context import check_context, check_model_memory
from evolpo.recipes.runs.engine import start_engine
from evolpo.recipes.runs.evaluation import (
    check_component,
    evaluate,
    evaluation_metrics,
    evaluation_sampling,
    write_judged,
)
from evolpo.recipes.runs.fit import check_rewards
from evolpo.recipes.runs.folder import new_run_folder, write_config
from evolpo.recipes.runs.launch import launched
from evolpo.rewards.stack import RewardStack
from evolpo.rl.logs.files import write_json
from evolpo.rl.logs.metrics import LoggerConfig
from evolpo.rl.logs.progress import Progress
from evolpo.rollout.prompts import encode_problems, load_heldout


def main(config: EvaluateConfig) -> None:
    """Run `evolpo evaluate` from the command line."""
    if not launched("evaluate"):
        print(evaluation_run(config))


def evaluation_run(config: EvaluateConfig) -> str:
    """Evaluate, write `evaluation.json` and the verdicts a problem into the run's folder, and return both as text."""
    with Progress(1, LoggerConfig()) as progress:
        path = model_folder(config.model)
        check_context(path, config.data, config.rollout)
        check_model_memory(path, config.precision, False)
        problems = load_heldout(config.data, config.seed, progress.note)
        rewards = RewardStack(config.rewards)
        check_component(config.evaluation, rewards.names)
        check_rewards(rewards, config.data, [], problems)
        tokenizer = load_tokenizer(path)
        prompts = [one for _, one in encode_problems(problems, tokenizer, config.data, progress.note, "data.heldout")]
        run = new_run_folder(config.output_dir, config.name)
        write_config(run, config)
        progress.note(f"{len(prompts)} held-out problems; starting vLLM with {path}")
        engine = start_engine(path, config.data, config.rollout, config.precision, config.seed)
        progress.note("evaluating")
        sampling = evaluation_sampling(
            config.evaluation, config.rollout.max_response_tokens, config.rollout.temperature
        )
        judged = evaluate(engine, rewards, prompts, config.evaluation, sampling, config.seed)
        rewards.close()
    metrics = evaluation_metrics(judged, config.evaluation)
    metrics |= {f"eval/{name}": value for name, value in rewards.last_metrics.items() if name.endswith("/mean")}
    write_judged(run / "judged.jsonl", judged)
    write_json(run / "evaluation.json", metrics)
    lines = [f"{name:28} {value:.4f}" for name, value in metrics.items()]
    return "\n".join([*lines, str(run)])
