"""The table of commands: what each is configured by and what it runs. Nothing heavy is imported until it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pkgutil import resolve_name
from typing import Any

from evolpo.recipes.arguments.fields import check_given, check_numbers
from evolpo.recipes.arguments.grammar import at_home
from evolpo.recipes.arguments.words import hydra_words

TO_OBJECT = "omegaconf:OmegaConf.to_object"
RESUMABLE = "evolpo.recipes.runs.resume:effective_config"


@dataclass(frozen=True)
class Command:
    """One command. Functions and classes are `module:name`, imported when they are needed."""

    config: str
    """Its YAML file in `conf/`."""
    schema: str
    """The dataclass behind that."""
    main: str
    """What it runs, with an object of the dataclass."""
    summary: str
    """What it is for, in a few words."""
    example: str
    """A call of it."""
    effective: str = TO_OBJECT
    """From the composed configuration to the object."""
    positional: tuple[str, ...] = ()
    """Fields that leading arguments without a name fill, in this order."""

    def words(self, arguments: Sequence[str]) -> list[str]:
        """What hydra is to read of the arguments of a call."""
        return hydra_words(arguments, self.config, resolve_name(self.schema), self.positional)

    def run(self, config: Any) -> None:
        """Run it on a composed configuration."""
        resolve_name(self.main)(self.checked(config))

    def checked(self, config: Any) -> Any:
        """The objects of a composed configuration.

        Raises:
            InputError: a field is wrong.
            OmegaConfBaseException: a value is not of the type of its field.
        """
        effective: Callable[[Any], Any] = resolve_name(self.effective)
        check_given(resolve_name(self.schema), at_home(config))
        found = effective(config)
        check_numbers(found)
        return found


COMMANDS: Mapping[str, Command] = {
    "init": Command(
        config="init",
        schema="evolpo.recipes.init:InitConfig",
        main="evolpo.recipes.init:main",
        summary="a recipe of one's own to begin with",
        example="evolpo init my_run",
        positional=("name",),
    ),
    "train": Command(
        config="train",
        schema="evolpo.recipes.config:TrainConfig",
        main="evolpo.recipes.train:main",
        summary="reinforcement learning",
        example="evolpo train experiment=smollm2_arithmetic",
        effective=RESUMABLE,
    ),
    "sft": Command(
        config="sft",
        schema="evolpo.recipes.config:SftConfig",
        main="evolpo.recipes.sft:main",
        summary="supervised fine-tuning (DFT)",
        example="evolpo sft experiment=smollm2_arithmetic",
        effective=RESUMABLE,
    ),
    "evaluate": Command(
        config="evaluate",
        schema="evolpo.recipes.config:EvaluateConfig",
        main="evolpo.recipes.evaluate:main",
        summary="accuracy on held-out problems",
        example="evolpo evaluate experiment=smollm2_arithmetic model.path=FOLDER",
    ),
    "apexeval": Command(
        config="apexeval",
        schema="evolpo.recipes.apexeval.apexeval:ApexEvalConfig",
        main="evolpo.recipes.apexeval.apexeval:main",
        summary="the checkpoint to start RL from",
        example="evolpo apexeval run=SFT_RUN",
        effective="evolpo.recipes.apexeval.apexeval:effective_apexeval_config",
    ),
    "pipeline": Command(
        config="pipeline",
        schema="evolpo.recipes.pipeline.pipeline:PipelineConfig",
        main="evolpo.recipes.pipeline.pipeline:main",
        summary="stages one after the other",
        example="evolpo pipeline experiment=evo_cot_nano",
        effective="evolpo.recipes.pipeline.pipeline:effective_pipeline",
    ),
    "compare": Command(
        config="compare",
        schema="evolpo.recipes.compare.plan:CompareConfig",
        main="evolpo.recipes.compare.compare:compare",
        summary="algorithms over several seeds",
        example="evolpo compare experiment=lpo_vs_grpo_gspo model.path=FOLDER",
    ),
    "score": Command(
        config="score",
        schema="evolpo.recipes.score:ScoreConfig",
        main="evolpo.recipes.score:score",
        summary="a reward on a file of responses",
        example="evolpo score math samples.jsonl",
        positional=("use", "file"),
    ),
    "model path": Command(
        config="model",
        schema="evolpo.recipes.config:ModelCommandConfig",
        main="evolpo.recipes.model:main",
        summary="the folder of a model, made on first use",
        example="evolpo model path model=smollm2",
    ),
    "model check": Command(
        config="model_check",
        schema="evolpo.recipes.config:ModelCheckConfig",
        main="evolpo.recipes.model:check",
        summary="what a model folder holds, and whether it can be trained",
        example="evolpo model check FOLDER",
        positional=("model.path",),
    ),
    "merge": Command(
        config="merge",
        schema="evolpo.recipes.merge:MergeConfig",
        main="evolpo.recipes.merge:main",
        summary="checkpoints into one model",
        example="evolpo merge run=RUN last=8 output=FOLDER",
    ),
    "pareto": Command(
        config="pareto",
        schema="evolpo.recipes.pareto.pareto:ParetoConfig",
        main="evolpo.recipes.pareto.pareto:main",
        summary="accuracy against tokens spent",
        example="evolpo pareto 'runs={a: [RUNS], b: [RUNS]}' output=FOLDER",
    ),
    "plan": Command(
        config="plan",
        schema="evolpo.recipes.plan.plan:PlanConfig",
        main="evolpo.recipes.plan.plan:main",
        summary="memory, FLOPs and speed on a cluster, nothing loaded",
        example="evolpo plan model=ling_1t cluster=h100x512",
    ),
    "doctor": Command(
        config="doctor",
        schema="evolpo.recipes.doctor.doctor:DoctorConfig",
        main="evolpo.recipes.doctor.doctor:main",
        summary="what this machine can do, found out by doing it; with --gpu its cards",
        example="evolpo doctor output=doctor.json",
    ),
    "bench step": Command(
        config="bench_step",
        schema="evolpo.recipes.bench.step:BenchStepConfig",
        main="evolpo.recipes.bench.step:bench_step",
        summary="a training step against TRL's",
        example="evolpo bench step",
    ),
    "bench scale": Command(
        config="bench_scale",
        schema="evolpo.recipes.bench.scale:BenchScaleConfig",
        main="evolpo.recipes.bench.scale:bench_scale",
        summary="the same by lengths and groups",
        example="evolpo bench scale",
    ),
    "bench fleet": Command(
        config="bench_fleet",
        schema="evolpo.recipes.bench.fleet:BenchFleetConfig",
        main="evolpo.recipes.bench.fleet:bench_fleet",
        summary="what sampling beside training brings, and what the death of an engine costs",
        example="evolpo bench fleet",
    ),
    "bench losses": Command(
        config="bench_losses",
        schema="evolpo.recipes.bench.losses:BenchLossesConfig",
        main="evolpo.recipes.bench.losses:main",
        summary="time and memory of the losses, speed of the segmenters",
        example="evolpo bench losses",
    ),
    "bench experts": Command(
        config="bench_experts",
        schema="evolpo.recipes.bench.experts:BenchExpertsConfig",
        main="evolpo.recipes.bench.experts:main",
        summary="grouped experts against a loop",
        example="evolpo bench experts",
    ),
    "bench fp8": Command(
        config="bench_fp8",
        schema="evolpo.recipes.bench.fp8:BenchFp8Config",
        main="evolpo.recipes.bench.fp8:main",
        summary="FP8 training against BF16",
        example="evolpo bench fp8",
    ),
    "bench lora": Command(
        config="bench_lora",
        schema="evolpo.recipes.bench.lora:BenchLoraConfig",
        main="evolpo.recipes.bench.lora:bench_lora",
        summary="adapters against full training: memory, sync, accuracy",
        example="evolpo bench lora",
    ),
    "bench frontend": Command(
        config="bench_frontend",
        schema="evolpo.recipes.bench.frontend:BenchFrontendConfig",
        main="evolpo.recipes.bench.frontend:main",
        summary="the front-end reward on worse copies and on cheats",
        example="evolpo bench frontend",
    ),
    "bench aesthetics": Command(
        config="bench_aesthetics",
        schema="evolpo.recipes.bench.aesthetics:BenchAestheticsConfig",
        main="evolpo.recipes.bench.aesthetics:main",
        summary="the looks of pages against what people said of them",
        example="evolpo bench aesthetics ratings/",
        positional=("folder",),
    ),
    "bench rewards": Command(
        config="bench_rewards",
        schema="evolpo.recipes.bench.rewards:BenchRewardsConfig",
        main="evolpo.recipes.bench.rewards:main",
        summary="40,000 rewards at once, with faults",
        example="evolpo bench rewards",
    ),
}
"""Every command by name."""


def registered(name: str) -> Command:
    """A command, its dataclass known to hydra."""
    from hydra.core.config_store import ConfigStore

    command = COMMANDS[name]
    ConfigStore.instance().store(name=f"{command.config}_schema", node=resolve_name(command.schema))
    return command


def composed(name: str, arguments: list[str]) -> Any:
    """The configuration of another command as checked objects, composed inside a running command.

    Raises:
        HydraException, OmegaConfBaseException, InputError: a name or a value is wrong.
    """
    from hydra import compose

    command = registered(name)
    plain = replace(command, effective=TO_OBJECT)  # nothing is resumed
    return plain.checked(compose(command.config, command.words(arguments)))


def one_line(error: Exception) -> str:
    """A configuration error of hydra or OmegaConf on one line, with the field's full name where it has one."""
    cause = error.__cause__ if getattr(error.__cause__, "full_key", None) else error
    text = str(cause).split("\n    full_key:")[0]
    key = getattr(cause, "full_key", None)
    if not key:
        return " ".join(str(error).split())
    return f"{key}: {' '.join(text.split())}"
