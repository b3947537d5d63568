"""The configurations of the commands, composed from dataclasses that stand beside the code that reads them."""

from __future__ import annotations

from dataclasses import dataclass, field

from evolpo import InputError
from evolpo.model import ModelConfig, resolve_precision
from evolpo.recipes.runs.checks import check_not_negative, check_positive
from evolpo.recipes.runs.context import longest_tokens
from evolpo.recipes.runs.evaluation import EvaluationConfig
from evolpo.recipes.runs.folder import check_name
from evolpo.recipes.runs.parallel import check_ranks
from evolpo.rewards.stack import RewardsConfig
from evolpo.rl.algorithm import AlgorithmConfig
from evolpo.rl.curriculum import CurriculumConfig
from evolpo.rl.logs.metrics import LoggerConfig
from evolpo.rl.training.config import TrainerConfig
from evolpo.rollout.engine import RolloutConfig
from evolpo.rollout.prompts import DataConfig

LOW_ADAPTER_RATE = 1e-5
"""Below it a learning rate is probably one of full training."""


def check_adapters(model: ModelConfig, trainer: TrainerConfig) -> None:
    """Raise InputError where adapters are asked for together with what cannot be trained by them."""
    if model.adapters is None:
        return
    if trainer.fp8:
        raise InputError("model.lora: adapters cannot stand beside products in FP8; set trainer.fp8=false")
    if trainer.expert_parallel > 1:
        raise InputError("model.lora: adapters cannot stand in experts that are spread; set trainer.expert_parallel=1")


def adapter_warnings(model: ModelConfig, trainer: TrainerConfig) -> list[str]:
    """What is probably not meant when adapters are trained.

    Source: Schulman et al., "LoRA Without Regret" (Thinking Machines, 2025): the best rate of adapters is about ten
    times that of full training, in supervised fine-tuning and in reinforcement learning, whatever the rank.
    """
    if model.adapters is None or trainer.learning_rate >= LOW_ADAPTER_RATE:
        return []
    return [
        f"trainer.learning_rate: {trainer.learning_rate:g} is low for adapters, which take about ten times the rate of "
        "full training; see docs/lora.md"
    ]


@dataclass
class TrainConfig:
    """`evolpo train`: reinforcement learning."""

    name: str = "run"
    """Name of the run: its folder is `output_dir/name/TIME`."""
    output_dir: str = "outputs"
    """Folder of all runs."""
    seed: int = 0
    """Seed of data order and sampling; the same seed gives the same run on the same machine."""
    steps: int = 100
    """Steps; each is one rollout and `algorithm.optimizer_steps` optimizer steps."""
    prompts_per_step: int = 8
    """Prompts sampled from in a step, over all ranks."""
    responses_per_prompt: int = 8
    """Responses to each prompt: the group."""
    processes: int = 0
    """Processes to start on this machine; 0: one a GPU, or one without GPUs."""
    resume: str = ""
    """Folder of a run or of one of its checkpoints to go on from."""
    replay: str = ""
    """Folder of a run with recorded batches (logger.record) to train on again, without an engine; its configuration."""
    dry_run: bool = False
    """Check configuration, data, prompts, rewards, context and model, show a prompt, then stop."""
    model: ModelConfig = field(default_factory=ModelConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)

    def __post_init__(self) -> None:
        """Check what concerns more than one part."""
        check_name(self.name)
        check_positive(self, "steps", "prompts_per_step")
        check_adapters(self.model, self.trainer)
        by_column = any(source.difficulty_column for source in self.data.train)
        levels = None if by_column else [source.difficulty for source in self.data.train]
        self.curriculum.check(levels, self.rollout.max_response_tokens, self.steps)
        self._check_fleet()
        if self.responses_per_prompt < 2:
            raise InputError(f"responses_per_prompt: {self.responses_per_prompt} is no group; give at least 2")
        if self.algorithm.optimizer_steps > self.prompts_per_step * self.responses_per_prompt:
            raise InputError(
                f"algorithm.optimizer_steps: {self.algorithm.optimizer_steps} is more than the "
                f"{self.prompts_per_step * self.responses_per_prompt} responses of a step; lower it"
            )
        longest = longest_tokens(self.data, self.rollout)
        if self.trainer.tokens_per_micro_batch < longest:
            raise InputError(
                f"trainer.tokens_per_micro_batch: {self.trainer.tokens_per_micro_batch} holds no prompt and response "
                f"(data.max_prompt_tokens {self.data.max_prompt_tokens} + rollout.max_response_tokens "
                f"{self.rollout.max_response_tokens} = {longest}); give at least {longest}"
            )

    def _check_fleet(self) -> None:
        fleet = self.rollout.fleet
        if fleet.engines and fleet.max_staleness and self.algorithm.correction == "none":
            raise InputError(
                f"algorithm.correction: none, but rollout.fleet.max_staleness={fleet.max_staleness} trains on what "
                "older policies have sampled; give tis or icepop"
            )

    def check_ranks(self, world: int) -> None:
        """Raise InputError unless the prompts of a step can be shared out over the ranks, and these over engines."""
        if self.prompts_per_step % world:
            raise InputError(
                f"prompts_per_step: {self.prompts_per_step} cannot be shared by {world} ranks; "
                f"give a multiple of {world}"
            )
        check_ranks(self.rollout.tensor_parallel, world)

    def warnings(self) -> list[str]:
        """What is allowed and probably not meant, one sentence each."""
        cut = {"rollout.top_p": self.rollout.top_p < 1, "rollout.top_k": self.rollout.top_k > 0}
        names = [name for name, cuts in cut.items() if cuts]
        found = [
            f"{name}: cuts the distribution that is sampled from, while the whole one is trained; log-probabilities of "
            f"engine and trainer will differ. Sample from all of it, or weigh by algorithm.correction=tis"
            for name in names
        ]
        if self.trainer.deterministic and self.rollout.top_p < 1:
            found.append("rollout.top_p: below 1 a GPU sums in an order of its own, trainer.deterministic or not")
        return found + adapter_warnings(self.model, self.trainer)

    def describe_batch(self, world: int) -> str:
        """The three batch sizes and how they belong together, in one line."""
        responses = self.prompts_per_step * self.responses_per_prompt
        return (
            f"{self.prompts_per_step} prompts x {self.responses_per_prompt} responses = {responses} responses a step "
            f"on {world} rank{'s' * (world > 1)}, in {self.algorithm.optimizer_steps} optimizer step"
            f"{'s' * (self.algorithm.optimizer_steps > 1)}, micro-batches of at most "
            f"{self.trainer.tokens_per_micro_batch} tokens"
        )


@dataclass
class SftConfig:
    """`evolpo sft`: supervised fine-tuning; on generated examples it is decoupled fine-tuning (DFT)."""

    name: str = "sft"
    """Name of the run: its folder is `output_dir/name/TIME`."""
    output_dir: str = "outputs"
    """Folder of all runs."""
    seed: int = 0
    """Seed of data order and generated examples."""
    steps: int = 24
    """Optimizer steps."""
    examples_per_step: int = 16
    """Examples in one optimizer step, over all ranks."""
    processes: int = 0
    """Processes to start on this machine; 0: one a GPU, or one without GPUs."""
    resume: str = ""
    """Folder of a run or of one of its checkpoints to go on from."""
    evaluate_every: int = 0
    """Steps between evaluations of the held-out loss; 0: after the last step only."""
    path: str = ""
    """File or folder with prompts and responses, or with messages; empty: worked solutions of `data.train`."""
    heldout_examples: int = 0
    """Examples of `path` to hold out; worked solutions are held out with their problems (`data.heldout_size`)."""
    direct_share: float = 0.65
    """Generated examples in instant mode: share that answers at once; the rest reasons in sentences."""
    deep_share: float = 0.0
    """Generated examples: share in the deep mode, with think and answer markers."""
    checked_share: float = 0.0
    """Generated examples in instant mode that reason: mean share of their steps that are checked after the last one."""
    mtp_weight: float = 0.1
    """Weight of the loss of multi-token prediction, in a model that has it."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)

    def __post_init__(self) -> None:
        """Check ranges."""
        check_name(self.name)
        check_positive(self, "steps", "examples_per_step")
        check_adapters(self.model, self.trainer)
        check_not_negative(self, "evaluate_every", "heldout_examples")
        if self.heldout_examples and not self.path:
            raise InputError("heldout_examples: is for examples of `path`; without one set data.heldout_size")
        for name in ("direct_share", "deep_share", "checked_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: {getattr(self, name)} is no share; give 0 to 1")


@dataclass
class EvaluateConfig:
    """`evolpo evaluate`: accuracy of a model on held-out problems."""

    name: str = "evaluate"
    """Name of the run: its folder is `output_dir/name/TIME`."""
    output_dir: str = "outputs"
    """Folder of all runs."""
    seed: int = 0
    """Seed of the data split and of sampling."""
    processes: int = 0
    """Processes to start on this machine, each with an engine and a share of the problems; 0: one a GPU, or one."""
    precision: str = "auto"
    """bf16, fp32, or auto: bf16 where the hardware multiplies it fast."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        """Check the name, and settle the precision."""
        check_name(self.name)
        self.precision = resolve_precision(self.precision, "precision")
        if self.model.adapters is not None:
            raise InputError(
                "model.lora.rank: adapters are for training; to evaluate some, evolpo merge makes a model of them"
            )


@dataclass
class ModelCommandConfig:
    """`evolpo model path`: where a model lies."""

    model: ModelConfig = field(default_factory=ModelConfig)


@dataclass
class ModelCheckConfig:
    """`evolpo model check`: what a model is and what evolpo can do with it."""

    model: ModelConfig = field(default_factory=ModelConfig)
