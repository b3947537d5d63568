"""A run's parts, put together from the start or from a checkpoint: data and rewards, the run's place, the trainer."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from evolpo.model import model_folder
from evolpo.model.lora import check_targets
from evolpo.recipes.config import TrainConfig
from evolpo.recipes.memory.check import check_training_memory
from evolpo.recipes.runs.context import check_context, check_memory, check_model_memory
from evolpo.recipes.runs.damage import check_run
from evolpo.recipes.runs.engine import start_engine
from evolpo.recipes.runs.evaluation import check_component
from evolpo.recipes.runs.fit import check_levels, check_rewards
from evolpo.recipes.runs.fleet import NoEngine, check_fleet
from evolpo.recipes.runs.folder import new_run_folder, write_config, write_start
from evolpo.recipes.runs.lock import locked
from evolpo.recipes.runs.parallel import check_model
from evolpo.recipes.runs.resume import resume_point
from evolpo.recipes.runs.stop import Stop
from evolpo.recipes.training.ahead import Ahead, key
from evolpo.recipes.training.parts import Parts
from evolpo.recipes.training.sync import adapter_rank, sync
from evolpo.rewards.stack import RewardStack
from evolpo.rl.checkpoint import read_state, set_later_aside
from evolpo.rl.curriculum import Curriculum
from evolpo.rl.logs.metrics import MetricsWriter
from evolpo.rl.logs.progress import Progress
from evolpo.rl.logs.samples import SampleTable
from evolpo.rl.saving import Saver
from evolpo.rl.trainer import Trainer
from evolpo.rl.training.determinism import fix_order_on_gpu
from evolpo.rl.training.distributed import from_rank_0, init_distributed
from evolpo.rollout.engine import RolloutEngine
from evolpo.rollout.fleet import Fleet
from evolpo.rollout.prompts import Problem, PromptStream, encode_problems, split_heldout
from evolpo.rollout.sources import Note
from evolpo.rollout.staleness import Bound


@dataclass(frozen=True)
class Place:
    """Where a run is written and where it begins."""

    rank: int
    run: Path
    checkpoint: Path | None
    """What it goes on from; None from the start."""
    state: Mapping[str, Any]
    """What the checkpoint's `state.json` says; empty from the start."""
    base: str
    """The model that the run began with; the checkpoint stands for it where neither a KL penalty nor adapters ask."""
    adapters: bool
    """Whether the checkpoint holds adapters of that model."""

    @property
    def model(self) -> str:
        """The folder that is trained from."""
        return str(self.base if self.adapters else self.checkpoint or self.base)

    @property
    def start(self) -> int:
        """The last step that is done."""
        return int(self.state.get("step", 0))


def assemble(
    config: TrainConfig, stack: ExitStack, engine: RolloutEngine | None, run: Path | None, stop: Stop
) -> Parts:
    """Load data, rewards, trainer and, if there is none yet, engine, from the start or from a checkpoint.

    Args:
        config: all that decides the result.
        stack: closes what must be closed.
        engine: a running engine of the same model and lengths; None starts one.
        run: the folder of a new run; None makes one.
        stop: hears SIGTERM.
    """
    began = time.time()
    fix_order_on_gpu(config.trainer.deterministic)
    progress = stack.enter_context(Progress(config.steps, config.logger, int(os.environ.get("RANK", "0"))))
    problems, heldout_problems, rewards = _data_and_rewards(config, stack, progress.note)
    place = _take_place(config, stack, run, stop, progress.note)
    began -= place.state.get("seconds", 0.0)
    rewards.unscored.file = place.run / ("unscored.jsonl" if place.rank == 0 else f"unscored_rank{place.rank}.jsonl")

    progress.note(f"loading the model from {place.model}")
    trainer = Trainer(
        place.model,
        config.trainer,
        total_updates=config.steps * config.algorithm.optimizer_steps,
        temperature=config.rollout.temperature,
        options=config.algorithm.loss_options(),
        reference_path=place.base,
        lora=config.model.adapters,
        adapter=place.checkpoint,
        seed=config.seed,
    )
    stream = PromptStream(problems, trainer.tokenizer, config.data, config.seed, progress.note)
    curriculum = Curriculum(config.curriculum)
    if place.checkpoint:
        trainer.load_optimizer(place.checkpoint)
        trainer.updates = place.state["updates"]
        stream.load_state_dict(place.state["prompts"])
        curriculum.load_state_dict(place.state["curriculum"])
    field = "data.heldout" if config.data.heldout else "data.train, held out"
    encoded = encode_problems(heldout_problems, trainer.tokenizer, config.data, progress.note, field)
    progress.note(f"{len(stream)} prompts to train on, {len(encoded)} held out")
    if config.replay:
        engine = NoEngine()
    if engine is None:
        trainer.rest()
        promised = trainer.promised_bytes()
        rank, how = adapter_rank(config.model.adapters, config.rollout.lora_sync, trainer.policy.model)
        progress.note(f"starting vLLM; {how}")
        engine = _engine(config, place, promised, rank, progress.note)
        if isinstance(engine, Fleet):
            stack.callback(engine.close)
    engine.asked = stop.together
    sync(engine, trainer, version=place.start)
    ahead = _ahead(config, engine, rewards, stream, place) if isinstance(engine, Fleet) else None
    if ahead is not None:
        stack.callback(ahead.drop)  # a fleet of several runs goes on with the next one
    resumed = place.start if place.checkpoint else None
    writer = stack.enter_context(MetricsWriter(place.run, config.logger, resumed)) if trainer.rank == 0 else None
    stop.begin()
    return Parts(
        config=config,
        run=place.run,
        start=place.start,
        stream=stream,
        curriculum=curriculum,
        heldout=[] if config.replay else [prompt for _, prompt in encoded],
        rewards=rewards,
        trainer=trainer,
        engine=engine,
        progress=progress,
        saver=stack.enter_context(Saver(place.run, trainer, progress.note)),
        writer=writer,
        table=SampleTable(place.run, resumed),
        began=began,
        stop=stop,
        ahead=ahead,
        pending=place.state.get("pending"),
    )


def _engine(config: TrainConfig, place: Place, promised: int, adapter_rank: int, note: Note) -> RolloutEngine:
    """This rank's engine, or on rank 0 the fleet of all ranks."""
    if config.rollout.fleet.engines and place.rank:
        return NoEngine(bool(adapter_rank))
    precision = config.trainer.precision
    return start_engine(place.model, config.data, config.rollout, precision, config.seed, promised, adapter_rank, note)


def _ahead(config: TrainConfig, engine: Fleet, rewards: RewardStack, stream: PromptStream, place: Place) -> Ahead:
    """The groups on their way; of a run that goes on, those that were on their way are asked for anew."""
    fleet = config.rollout.fleet
    ahead = Ahead(engine, rewards, config.seed, config.prompts_per_step, fleet.max_staleness, cast(Bound, fleet.bound))
    if "ahead" in place.state:
        prompts = {key(prompt): prompt for prompt in stream.prompts}
        sampling = config.rollout.sampling(config.responses_per_prompt)
        ahead.load_state_dict(place.state["ahead"], prompts, place.start, sampling)
    return ahead


def _data_and_rewards(
    config: TrainConfig, stack: ExitStack, note: Note
) -> tuple[Sequence[Problem], Sequence[Problem], RewardStack]:
    """Problems to train on, problems held out, and rewards that can judge both, checked before a model is loaded."""
    note("loading data and rewards")
    train, heldout = split_heldout(config.data, config.seed, note)
    check_levels(config.curriculum, train, config.rollout.max_response_tokens, config.steps)
    rewards = RewardStack(config.rewards)
    stack.callback(rewards.close)
    check_component(config.evaluation, rewards.names)
    check_rewards(rewards, config.data, train, heldout)
    for warning in config.warnings():
        note(f"warning: {warning}")
    return train, heldout, rewards


def _take_place(config: TrainConfig, stack: ExitStack, run: Path | None, stop: Stop, note: Note) -> Place:
    """Join the ranks, find or make the run's folder, keep others out, and read what a resumed run goes on from."""
    rank, world = init_distributed()
    config.check_ranks(world)
    checkpoint: Path | None = None
    if config.resume:
        run, checkpoint = resume_point(config.resume)
    adapters = config.model.adapters is not None
    kept = not checkpoint or bool(config.algorithm.kl_coef) or adapters
    base = model_folder(config.model) if kept else str(checkpoint)
    if config.model.adapters is not None:
        check_targets(base, config.model.adapters)
    check_context(base, config.data, config.rollout)
    engine_ranks = config.rollout.tensor_parallel
    check_model(engine_ranks, base)
    check_model_memory(base, config.trainer.precision, True, adapters=adapters, engine_ranks=engine_ranks)
    check_memory(config.rollout, config.prompts_per_step * config.responses_per_prompt)
    check_fleet(base, config.rollout, config.trainer.precision)
    check_training_memory(base, config, world)
    run = run or Path(from_rank_0(str(new_run_folder(config.output_dir, config.name)) if rank == 0 else ""))
    stop.run = run
    if rank == 0:
        stack.enter_context(locked(run))
        for lost in check_run(run, checkpoint) if checkpoint else []:
            note(lost)
        write_config(run, config)
        if not config.resume:
            write_start(run)
    state = read_state(checkpoint, ("step", "updates", "prompts", "curriculum")) if checkpoint else {}
    if checkpoint and rank == 0:
        for folder in set_later_aside(run, state["step"]):
            note(f"{folder.name}: its step is done again")
    note(f"run {run}")
    note(config.describe_batch(world))
    return Place(rank, run, checkpoint, state, base, adapters)
