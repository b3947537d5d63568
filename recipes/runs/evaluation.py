"""Evaluation: greedy accuracy or pass@k on held-out problems, with intervals, tokens and a table by difficulty."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evolpo import InputError
from evolpo.model.files import DamagedError
from evolpo.recipes.runs.seeds import draw_seed
from evolpo.rewards.stack import RewardStack
from evolpo.rl.curriculum import Right
from evolpo.rl.data import Group, Prompt
from evolpo.rollout.engine import RolloutEngine, Sampling

if TYPE_CHECKING:
    from evolpo.rl.training.distributed import Alone, Ranks


@dataclass
class EvaluationConfig:
    """How to evaluate on the held-out problems."""

    every: int = 0
    """Steps between evaluations during training; 0: before the first step and after the last only."""
    samples: int = 1
    """Responses to each problem: 1 is greedy, more are sampled at `rollout.temperature`."""
    pass_at: list[int] = field(default_factory=list)
    """The k of each pass@k to report; at most `samples`."""
    component: str = ""
    """Reward component that says whether a response is right, here and in training; empty: its first one."""
    threshold: float = 1.0
    """Least value of that component that is right."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.every < 0:
            raise InputError(f"evaluation.every: {self.every} is negative; 0 evaluates before and after only")
        if self.samples < 1:
            raise InputError(f"evaluation.samples: {self.samples} is less than 1")
        for k in self.pass_at:
            if not 1 <= k <= self.samples:
                raise InputError(f"evaluation.pass_at: {k} is not between 1 and evaluation.samples ({self.samples})")


def right_of(config: EvaluationConfig) -> Right:
    """When a response is right: one definition for training, curriculum and held-out problems."""
    return Right(config.component, config.threshold)


def check_component(config: EvaluationConfig, names: Sequence[str]) -> None:
    """Raise InputError unless the component that decides what is right is one of the reward's; `names` are theirs."""
    if config.component and config.component not in names:
        raise InputError(f"evaluation.component: {config.component!r} is none of the reward's: {', '.join(names)}")


@dataclass(frozen=True)
class Judged:
    """One held-out problem after evaluation."""

    prompt_id: str
    difficulty: str
    correct: int
    """Right responses."""
    samples: int
    """Responses that could be judged."""
    tokens: float
    """Mean response tokens."""

    @property
    def accuracy(self) -> float:
        """Share of right responses."""
        return self.correct / self.samples


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that k samples hold a right one: 1 - C(n-c, k) / C(n, k).

    Source: Chen et al., arXiv 2107.03374, section 2.1.
    """
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95% interval of a mean: Wilson's for shares of yes and no, else a BCa bootstrap over the values (fixed seed)."""
    from scipy import stats

    if len(values) == 0:
        return math.nan, math.nan
    if all(value in (0.0, 1.0) for value in values):
        interval = stats.binomtest(int(sum(values)), len(values)).proportion_ci(method="wilson")
        return float(interval.low), float(interval.high)
    if len(set(values)) == 1:
        return float(values[0]), float(values[0])
    return _bootstrap(values)


def _bootstrap(values: Sequence[float]) -> tuple[float, float]:
    from scipy import stats

    result = stats.bootstrap((np.asarray(values),), np.mean, n_resamples=9999, batch=500, rng=np.random.default_rng(0))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def paired_gain(before: Sequence[Judged], after: Sequence[Judged]) -> tuple[float, tuple[float, float]]:
    """Gain in accuracy on the same problems, and its 95% interval over problems; NaN if there are none."""
    first = {one.prompt_id: one.accuracy for one in before}
    gains = [one.accuracy - first[one.prompt_id] for one in after if one.prompt_id in first]
    if not gains:
        return math.nan, (math.nan, math.nan)
    if len(set(gains)) == 1:
        return gains[0], (gains[0], gains[0])
    return float(np.mean(gains)), _bootstrap(gains)


def judge(rewards: RewardStack, groups: Sequence[Group], config: EvaluationConfig) -> list[Judged]:
    """Judge sampled groups; problems of which no response could be judged are left out."""
    judged = []
    for group in rewards.score(groups):
        correct, known = right_of(config).count(group.breakdown)
        if known:
            tokens = float(np.mean([len(response.token_ids) for response in group.responses]))
            judged.append(Judged(group.prompt.id, group.prompt.difficulty, correct, known, tokens))
    return judged


def sample_by_ranks(
    ranks: Ranks | Alone, engine: RolloutEngine, prompts: Sequence[Prompt], sampling: Sampling, seed: int
) -> list[Group]:
    """The groups of all prompts, in their order, each sampled by one rank; every rank gets them.

    Greedy responses do not depend on the number of ranks; sampled ones do.
    """
    own = seed if ranks.rank == 0 else draw_seed(seed, ranks.rank)
    parts = ranks.gather(engine.generate(prompts[ranks.rank :: ranks.world], sampling, own))
    return [parts[place % ranks.world][place // ranks.world] for place in range(len(prompts))]


def evaluation_sampling(config: EvaluationConfig, max_response_tokens: int, temperature: float) -> Sampling:
    """Greedy for one sample, else at the temperature of training."""
    return Sampling(config.samples, max_response_tokens, 0.0 if config.samples == 1 else temperature)


def evaluation_metrics(judged: Sequence[Judged], config: EvaluationConfig) -> dict[str, float]:
    """The figures of an evaluation under their names in metrics.jsonl."""
    accuracies = [one.accuracy for one in judged]
    low, high = mean_interval(accuracies)
    metrics = {
        "eval/accuracy": float(np.mean(accuracies)) if accuracies else math.nan,
        "eval/accuracy_low": low,
        "eval/accuracy_high": high,
        "eval/tokens_mean": float(np.mean([one.tokens for one in judged])) if judged else math.nan,
        "eval/problems": float(len(judged)),
    }
    for k in config.pass_at:
        values = [pass_at_k(one.samples, one.correct, k) for one in judged if one.samples >= k]
        low, high = mean_interval(values)
        metrics |= {f"eval/pass@{k}": float(np.mean(values)), f"eval/pass@{k}_low": low, f"eval/pass@{k}_high": high}
    for level in sorted({one.difficulty for one in judged} - {""}):
        part = [one for one in judged if one.difficulty == level]
        metrics[f"eval/{level}/accuracy"] = float(np.mean([one.accuracy for one in part]))
        metrics[f"eval/{level}/tokens_mean"] = float(np.mean([one.tokens for one in part]))
    return metrics


def judged_file(run: Path, step: int) -> Path:
    """Where a run of `evolpo train` keeps the verdicts after a step."""
    return run / "evaluations" / f"step_{step}.jsonl"


def judged_files(run: Path) -> dict[int, Path]:
    """The files of verdicts of a run of `evolpo train` by step, in order."""
    named = ((re.fullmatch(r"step_(\d+)", path.stem), path) for path in run.glob("evaluations/*.jsonl"))
    return dict(sorted((int(match[1]), path) for match, path in named if match))


def write_judged(path: Path, judged: Sequence[Judged]) -> None:
    """One line a problem."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(one)) + "\n" for one in judged))


def read_judged(path: Path) -> list[Judged]:
    """What `write_judged` wrote.

    Raises:
        DamagedError: a line is no verdict.
    """
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            found.append(Judged(**json.loads(line)))
        except (ValueError, TypeError, RecursionError):
            raise DamagedError(path, f"is damaged: line {number} is no verdict; evaluate again") from None
    return found
