"""The command line: `evolpo COMMAND [options]`. Every command is a hydra application.

A user's mistake is one line on stderr and exit code 2; a failed run is exit code 1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import takewhile
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from evolpo import InputError, __version__

USAGE = f"""evolpo {__version__}: reinforcement-learning post-training of language models, by sentences

usage: evolpo COMMAND [overrides] [--help] [--cfg job] [--multirun]

  train        reinforcement learning           evolpo train experiment=smollm2_arithmetic
  sft          supervised fine-tuning (DFT)     evolpo sft experiment=smollm2_arithmetic
  evaluate     accuracy on held-out problems    evolpo evaluate experiment=smollm2_arithmetic model.path=FOLDER
  apexeval     the checkpoint to start RL from  evolpo apexeval run=SFT_RUN
  pipeline     stages one after the other       evolpo pipeline experiment=evo_cot_nano
  compare      algorithms over several seeds    evolpo compare experiment=lpo_vs_grpo_gspo model.path=FOLDER
  score        a reward on a file of responses  evolpo score math samples.jsonl
  model path   the folder of a model, made      evolpo model path model=smollm2
               on first use
  merge                checkpoints into one model       evolpo merge run=RUN last=8 output=FOLDER
  pareto               accuracy against tokens spent    evolpo pareto 'runs={{a: [RUNS], b: [RUNS]}}' output=FOLDER
  plan                 memory, FLOPs and speed on a     evolpo plan model=ling_1t cluster=h100x512
                       cluster, nothing loaded
  bench step           a training step against TRL's    evolpo bench step
  bench losses         time and memory of the losses,   evolpo bench losses
                       speed of the segmenters
  bench experts        grouped experts against a loop   evolpo bench experts
  bench fp8            FP8 training against BF16        evolpo bench fp8
  bench frontend       the front-end reward on worse    evolpo bench frontend
                       copies and on cheats
  bench rewards        40,000 rewards at once, with     evolpo bench rewards
                       faults

`evolpo COMMAND --help` shows the whole configuration; any field is an override: `evolpo train steps=20 algorithm=grpo`.
`evolpo train --dry-run ...` checks a configuration without loading a model.
"""


def _train(config: Any) -> None:
    from evolpo.recipes.launch import launched
    from evolpo.recipes.resume import effective_config

    checked = effective_config(config)
    if checked.dry_run:
        from evolpo.recipes.launch import dry_run

        print(dry_run(checked))
        return
    if launched("train", checked.processes):
        return
    from evolpo.recipes.train import train

    run = train(checked)
    if int(os.environ.get("RANK", "0")) == 0:
        from evolpo.recipes.report import closing_lines

        print(closing_lines(run))


def _sft(config: Any) -> None:
    from evolpo.recipes.launch import launched
    from evolpo.recipes.resume import effective_config

    checked = effective_config(config)
    if launched("sft"):
        return
    from evolpo.recipes.sft import sft

    folder = sft(checked)
    if int(os.environ.get("RANK", "0")) == 0:
        print(folder)


def _evaluate(config: Any) -> None:
    from evolpo.recipes.launch import launched

    checked = _to_object(config)
    if launched("evaluate"):
        return
    from evolpo.recipes.evaluation_run import evaluation_run

    print(evaluation_run(checked))


def _apexeval(config: Any) -> None:
    from evolpo.recipes.apexeval import effective_apexeval_config
    from evolpo.recipes.launch import launched

    checked = effective_apexeval_config(config)
    if launched("apexeval"):
        return
    from rich.console import Console

    from evolpo.recipes.apexeval import apexeval
    from evolpo.recipes.apexeval_rows import tables

    run, rows = apexeval(checked)
    console = Console(markup=False, highlight=False)
    for table in tables(rows):
        console.print(table)
    print(run, rows[0].checkpoint, sep="\n")


def _pipeline(config: Any) -> None:
    from rich.console import Console

    from evolpo.recipes.pipeline import closing_table, effective_pipeline, pipeline
    from evolpo.recipes.pipeline_state import STATE

    checked = effective_pipeline(config)
    folder = pipeline(checked)
    Console(markup=False, highlight=False).print(closing_table(folder, checked.stages))
    print(folder / STATE)


def _compare(config: Any) -> None:
    from evolpo.recipes.compare import compare

    compare(_to_object(config))


def _model_path(config: Any) -> None:
    from evolpo.model import model_folder

    print(model_folder(_to_object(config).model))


def _bench_step(config: Any) -> None:
    from evolpo.recipes.bench import bench_step

    bench_step(_to_object(config))


def _bench_losses(config: Any) -> None:
    from rich.console import Console

    from evolpo.recipes.bench_losses import bench_losses, tables

    checked = _to_object(config)
    report = bench_losses(checked)
    console = Console(markup=False, highlight=False)
    for table in tables(report):
        console.print(table)
    print(checked.output)


def _bench_experts(config: Any) -> None:
    from evolpo.recipes.bench_experts import bench_experts

    checked = _to_object(config)
    report = bench_experts(checked)
    seconds = f"grouped {report['grouped_s']:.4f} s, loop {report['loop_s']:.4f} s"
    print(f"{seconds}: {report['speedup_over_loop']:.1f} times the loop's speed")
    by_experts = ", ".join(f"{n} experts {s:.4f} s" for n, s in report["grouped_s_by_experts"].items())
    print(f"the same number used of more: {by_experts}\n{checked.output}")


def _bench_fp8(config: Any) -> None:
    from evolpo.recipes.bench_fp8 import bench_fp8

    checked = _to_object(config)
    report = bench_fp8(checked)
    print(f"loss gap: largest {report['loss_gap_max']:.3%}, mean {report['loss_gap_mean']:.3%}")
    print(f"BF16 again: largest {report['control_gap_max']:.3%}, mean {report['control_gap_mean']:.3%}")
    print(f"kept for the backward pass: {report['saved_bytes_ratio']:.3f} of BF16\n{checked.output}")


def _bench_rewards(config: Any) -> None:
    from evolpo.recipes.bench_rewards import bench_rewards

    checked = _to_object(config)
    report = bench_rewards(checked)
    fate = f"{report['scored_share']:.2%} scored, {report['lost']} lost, {report['duplicates']} scored twice"
    print(f"{report['requests']} requests in {report['seconds']:.0f} s: {fate}, peak {report['peak_gb']:.2f} GB")
    print(checked.output)


def _bench_frontend(config: Any) -> None:
    from evolpo.recipes.bench_frontend import bench_frontend

    checked = _to_object(config)
    report = bench_frontend(checked)
    print(f"pairs won: {report['pairs_won']} of {report['pairs']}")
    for name, attack in report["attacks"].items():
        print(f"{name}: {attack['score']}, worst honest page {attack['worst_honest']}")
    print(checked.output)


def _merge(config: Any) -> None:
    from evolpo.recipes.merge import closing_lines, merge_checkpoints

    print(closing_lines(merge_checkpoints(_to_object(config))))


def _pareto(config: Any) -> None:
    from evolpo.recipes.pareto import pareto

    print(pareto(_to_object(config)))


def _plan(config: Any) -> None:
    from evolpo.recipes.plan import lines, plan

    checked = _to_object(config)
    print("\n".join(lines(checked, plan(checked))))


def _score(config: Any) -> None:
    from evolpo.recipes.score import score

    score(_to_object(config))


def _to_object(config: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_object(config)


@dataclass(frozen=True)
class Command:
    """One command: its YAML file, the dataclass behind it, and what it runs."""

    config: str
    schema: str
    run: Callable[[Any], None]
    positional: tuple[str, ...] = ()
    """Fields that leading arguments without a name fill, in this order."""


COMMANDS: Mapping[str, Command] = {
    "train": Command("train", "evolpo.recipes.config:TrainConfig", _train),
    "sft": Command("sft", "evolpo.recipes.config:SftConfig", _sft),
    "evaluate": Command("evaluate", "evolpo.recipes.config:EvaluateConfig", _evaluate),
    "apexeval": Command("apexeval", "evolpo.recipes.apexeval:ApexEvalConfig", _apexeval),
    "pipeline": Command("pipeline", "evolpo.recipes.pipeline:PipelineConfig", _pipeline),
    "compare": Command("compare", "evolpo.recipes.compare_plan:CompareConfig", _compare),
    "model path": Command("model", "evolpo.recipes.config:ModelCommandConfig", _model_path),
    "score": Command("score", "evolpo.recipes.score:ScoreConfig", _score, positional=("use", "file")),
    "merge": Command("merge", "evolpo.recipes.merge:MergeConfig", _merge),
    "pareto": Command("pareto", "evolpo.recipes.pareto:ParetoConfig", _pareto),
    "plan": Command("plan", "evolpo.recipes.plan:PlanConfig", _plan),
    "bench step": Command("bench_step", "evolpo.recipes.bench:BenchStepConfig", _bench_step),
    "bench losses": Command("bench_losses", "evolpo.recipes.bench_losses:BenchLossesConfig", _bench_losses),
    "bench experts": Command("bench_experts", "evolpo.recipes.bench_experts:BenchExpertsConfig", _bench_experts),
    "bench frontend": Command("bench_frontend", "evolpo.recipes.bench_frontend:BenchFrontendConfig", _bench_frontend),
    "bench rewards": Command("bench_rewards", "evolpo.recipes.bench_rewards:BenchRewardsConfig", _bench_rewards),
    "bench fp8": Command("bench_fp8", "evolpo.recipes.bench_fp8:BenchFp8Config", _bench_fp8),
}
"""Every command by name."""


def split_command(arguments: list[str]) -> tuple[str, list[str]]:
    """Command and what follows it.

    Raises:
        InputError: there is no such command.
    """
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, arguments[words:]
    raise InputError(f"command: {' '.join(arguments[:1])!r} is none of {', '.join(COMMANDS)}; try evolpo --help")


def _expanded(argument: str, config_name: str) -> str:
    """`--dry-run` as an override; `experiment=NAME` as the file of this command, `experiment=COMMAND/NAME`."""
    if argument == "--dry-run":
        return "dry_run=true"
    field, equals, value = argument.partition("=")
    if field == "runs" or field.startswith(("options.", "runs.")):
        return f"++{argument}"  # A reward's own options, the user's own methods: the configuration knows none of them.
    if field.lstrip("+") != "experiment" or not value:
        return argument
    return field + equals + ",".join(one if "/" in one else f"{config_name}/{one}" for one in value.split(","))


def _named(arguments: list[str], fields: tuple[str, ...]) -> list[str]:
    """Leading arguments without a name as overrides of the command's positional fields."""
    plain = list(takewhile(lambda argument: "=" not in argument and not argument.startswith("-"), arguments))
    values = [argument.replace("'", r"\'") for argument in plain[: len(fields)]]
    overrides = [f"{field}='{value}'" for field, value in zip(fields, values, strict=False)]
    return overrides + arguments[len(overrides) :]


def one_line(error: Exception) -> str:
    """A configuration error of hydra or OmegaConf on one line, with the field's full name where it has one."""
    cause = error.__cause__ if getattr(error.__cause__, "full_key", None) else error
    text = str(cause).split("\n    full_key:")[0]
    key = getattr(cause, "full_key", None)
    if not key:
        return " ".join(str(error).split())
    return f"{key}: {' '.join(text.split())}"


def composed(name: str, arguments: list[str]) -> Any:
    """The configuration of another command as checked objects, composed inside a running command.

    Raises:
        HydraException, OmegaConfBaseException, InputError: a name or a value is wrong.
    """
    from hydra import compose

    command = _registered(name)
    return _to_object(compose(command.config, [_expanded(argument, command.config) for argument in arguments]))


def _registered(name: str) -> Command:
    """A command, its dataclass known to hydra."""
    from hydra.core.config_store import ConfigStore

    command = COMMANDS[name]
    ConfigStore.instance().store(name=f"{command.config}_schema", node=resolve_name(command.schema))
    return command


def run(arguments: list[str]) -> None:
    """Run one command; raises what goes wrong."""
    name, rest = split_command(arguments)
    import hydra

    command = _registered(name)
    rest = [_expanded(argument, command.config) for argument in _named(rest, command.positional)]
    sys.argv = [f"evolpo {name}", *rest]
    sys.path.insert(0, str(Path.cwd()))  # plugins beside the user

    @wraps(command.run)
    def job(config: Any) -> None:
        # Inside the job, so that hydra does not report a mistake in its own words first.
        with _mistakes_on_one_line():
            command.run(config)

    hydra.main(version_base=None, config_path="conf", config_name=command.config)(job)()


def quiet_libraries() -> None:
    """Switch off the progress bars of tqdm, transformers, datasets and the hub where stderr is no terminal.

    They read these variables when they are first imported, here and in the processes that this one starts.
    """
    if not sys.stderr.isatty():
        for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
            os.environ.setdefault(name, "1")


def main() -> None:
    """Entry point of `evolpo`."""
    quiet_libraries()
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return
    if arguments[0] == "--version":
        print(__version__)
        return
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # hydra hands its errors on instead of printing them
    with _mistakes_on_one_line():
        run(arguments)


@contextmanager
def _mistakes_on_one_line() -> Iterator[None]:
    """Turn what a user can mend into one line and an exit code; everything else stays a traceback."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from evolpo.rewards.stack import RewardError

    try:
        yield
    except InputError as error:
        sys.exit(_fail(" ".join(str(error).split()), 2))
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(_fail(one_line(error), 2))
    except RewardError as error:
        sys.exit(_fail(str(error), 1))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted; resume=FOLDER goes on (evolpo compare: the same command)", 130))


def _fail(message: str, code: int) -> int:
    print(f"evolpo: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
