"""Which runs a comparison of algorithms consists of: its configuration, and the runs that follow from it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from evolpo import InputError
from evolpo.recipes.config import TrainConfig
from evolpo.recipes.runs.checks import check_positive
from evolpo.rl.algorithm import AlgorithmConfig
from evolpo.rl.losses import LOSSES
from evolpo.rl.policy_loss import UnitLoss

ALGORITHMS = Path(__file__).parents[1] / "conf" / "algorithm"
BUDGETS = (
    "steps",
    "prompts_per_step",
    "responses_per_prompt",
    "rollout.max_response_tokens",
    "algorithm.optimizer_steps",
    "algorithm.max_refills",
)
"""Fields that say how much an algorithm may sample and train; the same for all algorithms of a comparison."""


@dataclass
class SearchConfig:
    """The small search for a clip range, the same for every algorithm, behind the second table."""

    clip_factors: list[float] = field(default_factory=lambda: [0.3, 1.0, 3.0])
    """Each algorithm's published clip range is tried times each of these; none: no search and no second table."""
    seeds: list[int] = field(default_factory=lambda: [100])
    """Seeds of the search alone, so that the choice is not made on the runs that are reported."""


@dataclass
class CompareConfig(TrainConfig):
    """`evolpo compare`: algorithms on the same prompts, budgets, start and evaluation, over several seeds.

    All fields of `evolpo train` are here too and hold for every run; `seed` is set by `seeds`.
    """

    name: str = "comparison"
    """Name of the comparison: its folder is `output_dir/name`. The same command with the same name goes on."""
    algorithms: list[str] = field(default_factory=list)
    """Names of `algorithm=`, each alone, with other units (`lpo:token`), or with one field (`"lpo:kl_coef=0.1"`)."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    """Seeds that every algorithm runs with; at least two."""
    search: SearchConfig = field(default_factory=SearchConfig)
    workers: int = 1
    """Processes that train side by side, each one run after the other in one engine; more are jobs of hydra."""
    worker: int = -1
    """Number of this process among the workers; set by the command itself."""
    keep_models: bool = False
    """Keep the last model of every run; otherwise a finished run leaves its figures only."""

    def __post_init__(self) -> None:
        """Check what makes a comparison fair, and settle what is the same for all runs."""
        super().__post_init__()
        check_positive(self, "workers")
        if len(set(self.algorithms)) < max(len(self.algorithms), 2):
            raise InputError(f"algorithms: {self.algorithms} are no two different ones; give such as [lpo,grpo]")
        if len(set(self.seeds)) < max(len(self.seeds), 2):
            raise InputError(f"seeds: {self.seeds} are no two different ones; a spread needs such as [0,1,2,3,4]")
        if self.search.clip_factors:
            self._check_search()
        if self.resume:
            raise InputError("resume: a comparison goes on by the same command under the same name; leave it empty")
        if self.processes > 1:
            raise InputError(f"processes: {self.processes} for one run; a comparison takes one, and more runs: workers")
        if self.rollout.tensor_parallel > 1:
            raise InputError(
                f"rollout.tensor_parallel: {self.rollout.tensor_parallel} ranks an engine, but in a comparison each "
                f"process has an engine of its own; set 1"
            )
        if not (self.data.heldout or self.data.heldout_size):
            raise InputError("data.heldout_size: 0 leaves nothing to compare on; hold problems out")
        for name in ("clip_low", "clip_high"):
            if getattr(self.algorithm, name) is not None:
                raise InputError(
                    f"algorithm.{name}: a comparison takes each algorithm's published range; leave it empty"
                )
        if self.data.seed is None:
            self.data = replace(self.data, seed=0)  # one split, whatever the seed of a run
        for entry in self.algorithms:
            algorithm_of(entry, self.algorithm)

    def _check_search(self) -> None:
        factors, seeds = self.search.clip_factors, self.search.seeds
        if min(factors) <= 0 or len(set(factors)) < len(factors):
            raise InputError(f"search.clip_factors: {factors} are not different and positive; give such as [0.3,1,3]")
        if not seeds:
            raise InputError("search.seeds: is empty; give one, such as [100], or search.clip_factors=[] for no search")
        if shared := set(seeds) & set(self.seeds):
            raise InputError(f"search.seeds: {sorted(shared)} are also in seeds; the choice needs seeds of its own")


def algorithm_of(entry: str, shared: AlgorithmConfig) -> AlgorithmConfig:
    """The settings of one entry of `algorithms`: those of all, then the algorithm's own file, then the entry's change.

    Algorithms do not set budgets: DAPO's refills happen only if `algorithm.max_refills` asks for them for everybody.

    Raises:
        InputError: no such algorithm or field, units for one that has its own, or a budget of its own.
    """
    name, _, change = entry.partition(":")
    file = ALGORITHMS / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in ALGORITHMS.glob("*.yaml")))
        raise InputError(f"algorithms: {name!r} is none of {known}")
    settings = OmegaConf.merge(OmegaConf.structured(shared), OmegaConf.load(file))
    if "=" in change:
        _check_field(entry, change.partition("=")[0])
        try:
            settings = OmegaConf.merge(settings, OmegaConf.from_dotlist([change]))
        except OmegaConfBaseException as error:
            raise InputError(f"algorithms: {entry}: {str(error).splitlines()[0]}") from None
    elif change:
        if _unit_loss(settings.name).unit != "given":
            raise InputError(f"algorithms: {entry}: {name} has units of its own; only lpo takes others")
        settings.units = change
    settings.max_refills = shared.max_refills
    result = OmegaConf.to_object(settings)
    assert isinstance(result, AlgorithmConfig)
    return result


def _check_field(entry: str, name: str) -> None:
    short = [budget.removeprefix("algorithm.").removeprefix("rollout.") for budget in BUDGETS]
    if name in (*short, *BUDGETS):
        raise InputError(f"algorithms: {entry}: unequal budgets; give {name} to all algorithms, outside the list")
    known = {one.name for one in fields(AlgorithmConfig)} - {"name"}
    if name not in known:
        raise InputError(f"algorithms: {entry}: {name!r} is no field of an algorithm; give {', '.join(sorted(known))}")


def _unit_loss(name: str) -> UnitLoss:
    loss = LOSSES[name]
    assert isinstance(loss, UnitLoss)
    return loss


def with_clip_factor(algorithm: AlgorithmConfig, factor: float) -> AlgorithmConfig:
    """The algorithm with its clip range, published or its entry's own, times a factor; 1 changes nothing.

    A lower range of 1 is no bound, as in CISPO, and stays none.
    """
    if factor == 1:
        return algorithm
    loss = _unit_loss(algorithm.name)
    low = loss.default_clip_low if algorithm.clip_low is None else algorithm.clip_low
    high = loss.default_clip_high if algorithm.clip_high is None else algorithm.clip_high
    return replace(algorithm, clip_low=low if low >= 1 else low * factor, clip_high=high * factor)


@dataclass(frozen=True)
class PlannedRun:
    """One training: an algorithm at a multiple of its clip range, with a seed. Its folder follows from these."""

    algorithm: str
    """An entry of `algorithms`."""
    factor: float
    """Multiple of the published clip range."""
    seed: int
    folder: Path
    config: TrainConfig

    @property
    def title(self) -> str:
        """The run in words."""
        clip = "" if self.factor == 1 else f" clip x{self.factor:g}"
        return f"{self.algorithm}{clip} seed {self.seed}"


def study_folder(config: CompareConfig) -> Path:
    """Where everything of a comparison lies."""
    return Path(config.output_dir) / config.name


def planned_run(config: CompareConfig, algorithm: str, factor: float, seed: int) -> PlannedRun:
    """The run of one algorithm at one clip range with one seed."""
    name = re.sub(r"[^\w.=-]", "_", algorithm) + ("" if factor == 1 else f"_clip_x{factor:g}")
    folder = study_folder(config) / "runs" / name / f"seed_{seed}"
    shared: dict[str, Any] = {one.name: getattr(config, one.name) for one in fields(TrainConfig)}
    own = {
        "name": name,
        "output_dir": str(study_folder(config) / "runs"),
        "seed": seed,
        "processes": 1,
        "dry_run": False,
        "algorithm": with_clip_factor(algorithm_of(algorithm, config.algorithm), factor),
        "trainer": replace(config.trainer, keep_checkpoints=1),
        # Displays of several runs at once would write over each other. Each comparison is a W&B project of its own.
        "logger": replace(
            config.logger,
            progress=config.logger.progress and config.workers == 1,
            wandb_project=f"{config.logger.wandb_project}-{config.name}",
        ),
    }
    return PlannedRun(algorithm, factor, seed, folder, TrainConfig(**shared | own))


def published_runs(config: CompareConfig) -> list[PlannedRun]:
    """Every algorithm at its published clip range; seed by seed, so that whatever is done first can be compared."""
    return [planned_run(config, one, 1.0, seed) for seed in config.seeds for one in config.algorithms]


def search_runs(config: CompareConfig) -> list[PlannedRun]:
    """Every algorithm at every clip range of the search, with the seeds of the search."""
    search = config.search
    return [
        planned_run(config, one, factor, seed)
        for seed in search.seeds
        for factor in search.clip_factors
        for one in config.algorithms
    ]


def best_factor(accuracies: Mapping[float, Sequence[float | None]]) -> float | None:
    """The clip factor with the highest mean held-out accuracy; of equals the one nearest to 1.

    Args:
        accuracies: by factor, the final accuracy of each search run; None for a run that failed, which rules its factor
            out.

    Returns:
        The factor, or None if every one is ruled out.
    """
    means = {
        factor: sum(one for one in values if one is not None) / len(values)
        for factor, values in accuracies.items()
        if None not in values
    }
    if not means:
        return None
    return max(means, key=lambda factor: (round(means[factor], 9), -abs(math.log(factor)), -factor))


def tuned_runs(config: CompareConfig, factors: Mapping[str, float | None]) -> list[PlannedRun]:
    """The runs of the second table, of algorithms whose factor is known; at factor 1 they are the published ones."""
    return [
        planned_run(config, one, factor, seed)
        for seed in config.seeds
        for one in config.algorithms
        if (factor := factors.get(one)) is not None
    ]
