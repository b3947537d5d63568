"""`evolpo bench scale`: seconds and memory of a step beside TRL's, by lengths of prompts and responses and by groups.

Every cell is `bench step` with lengths that are what they are called: prompts are filled up, and the model is a copy
whose end of text is a token that it hardly ever samples, so that responses run to their budget on both sides. One of
the three varies, the others stay at `base`. A cell that is done leaves a JSON in the folder beside the output, so that
the same command goes on where it was ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from evolpo import InputError
from evolpo.model import ModelConfig, load_tokenizer
from evolpo.model.files import read_object
from evolpo.recipes.bench.parts import check_settings
from evolpo.recipes.bench.step import check_trl, measure, questions, summarise
from evolpo.recipes.bench.step_side import StepTask
from evolpo.recipes.runs.checks import check_not_negative, check_positive, check_precision, check_results_file
from evolpo.recipes.runs.lock import locked
from evolpo.rl.logs.files import write_json
from evolpo.rollout.prompts import chat_tokens

FIXED = ("model", "prompts", "steps", "warmup", "precision", "compile", "seed")
"""Fields that the cells of one folder share."""
FILLING = "Take your time, and write down what you do before you do it. "


class Cell(NamedTuple):
    """Lengths in tokens, and responses to a prompt."""

    prompt: int
    response: int
    group: int


@dataclass
class BenchScaleConfig:
    """`evolpo bench scale`: where evolpo's step gains on TRL's, and where it does not; goes on where it was ended."""

    model: ModelConfig = field(default_factory=lambda: ModelConfig(name="smollm2"))
    prompt_tokens: list[int] = field(default_factory=lambda: [32, 128, 512, 1024])
    """Lengths of prompts, the chat template included."""
    response_tokens: list[int] = field(default_factory=lambda: [64, 128, 256, 512, 1024])
    """Lengths of responses."""
    group_sizes: list[int] = field(default_factory=lambda: [4, 8, 16, 32])
    """Responses to a prompt."""
    base: list[int] = field(default_factory=lambda: [128, 128, 8])
    """Length of prompts, length of responses and responses to a prompt where they do not vary."""
    prompts: int = 2
    """Prompts in a step."""
    steps: int = 2
    """Measured steps of each side in a cell."""
    warmup: int = 1
    """Steps of each side before those."""
    precision: str = "auto"
    """bf16, fp32, or auto: bf16 where the hardware multiplies it fast, else fp32."""
    compile: bool = True
    """Let vLLM compile the model first (a minute a cell, not counted)."""
    output: str = "outputs/bench/scale.json"
    """File of the results; the cells are in the folder of the same name."""
    seed: int = 0
    """Seed of prompts and sampling."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_positive(self, "prompts", "steps")
        check_not_negative(self, "warmup", "seed")
        for name, least in (("prompt_tokens", 1), ("response_tokens", 1), ("group_sizes", 2)):
            if any(value < least for value in getattr(self, name)):
                raise InputError(f"{name}: {min(getattr(self, name))} is less than {least}")
        if len(self.base) != 3 or min(self.base) < 1 or self.base[2] < 2:
            raise InputError(f"base: {self.base} is not a prompt's tokens, a response's and a group of at least 2")
        check_precision(self.precision)
        check_results_file(self.output)


def cells(config: BenchScaleConfig) -> list[Cell]:
    """The base, then one of the three varied at a time; each once."""
    base = Cell(*config.base)
    found = [base]
    found += [base._replace(prompt=tokens) for tokens in config.prompt_tokens]
    found += [base._replace(response=tokens) for tokens in config.response_tokens]
    found += [base._replace(group=size) for size in config.group_sizes]
    return list(dict.fromkeys(found))


def bench_scale(config: BenchScaleConfig) -> dict[str, Any]:
    """Measure the cells that are not done yet; write the figures after each, print and return them.

    Returns:
        `cells`: for each `prompt_tokens`, `response_tokens`, `group_size`, the tokens of a step
        (`prompt_tokens_taken` of all rows, `response_tokens_taken`), `evolpo_s`, `trl_s`: median seconds of a step,
        `speedup`: their ratio, `evolpo_peak_gb`, `trl_peak_gb`; or `error` of a side that died, of want of memory for
        instance; `processor`; `setting`.

    Raises:
        InputError: TRL is missing, the folder holds cells of other settings, or another process works in it.
    """
    from evolpo.model import model_folder

    check_trl()
    folder = Path(config.output).with_suffix("").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        setting = {name: getattr(config, name) for name in FIXED} | {"model": model_folder(config.model)}
        check_settings(folder, setting, "cells")
        model = without_end(Path(setting["model"]), folder / "model")
        for cell in cells(config):
            file = folder / f"prompt_{cell.prompt}_response_{cell.response}_group_{cell.group}.json"
            if not file.exists():
                write_json(file, _cell(config, model, cell, file))
            report = _write(config, folder, setting)
    print_report(report)
    return report


def without_end(model: Path, copy: Path) -> Path:
    """A model folder, its weights linked, whose end of text is the last special token: one it hardly ever samples."""
    tokenizer = load_tokenizer(str(model))
    usual = tokenizer.eos_token_id
    end = max(number for number in tokenizer.added_tokens_decoder if number != usual)
    copy.mkdir(exist_ok=True)
    for file in model.iterdir():
        if file.is_file():
            own = copy / file.name
            own.unlink(missing_ok=True)
            if file.suffix == ".safetensors":
                own.symlink_to(file.resolve())
            else:
                own.write_bytes(file.read_bytes())
    for name in ("config.json", "generation_config.json"):
        if (copy / name).exists():
            write_json(copy / name, read_object(copy / name) | {"eos_token_id": end})
    tokenizer.eos_token = tokenizer.added_tokens_decoder[end].content
    tokenizer.save_pretrained(copy)
    return copy


def filled(question: str, tokenizer: Any, tokens: int) -> str:
    """A question with sentences before it, so that the prompt has about so many tokens with its chat template."""

    def length(text: str) -> int:
        return len(chat_tokens(tokenizer, "", text))

    missing = tokens - length(question)
    if missing <= 0:
        return question
    text = FILLING * (missing // max(1, length(FILLING + question) - length(question))) + question
    while length("Well, " + text) <= tokens:
        text = "Well, " + text
    return text


def _cell(config: BenchScaleConfig, model: Path, cell: Cell, file: Path) -> dict[str, Any]:
    tokenizer = load_tokenizer(str(model))
    asked = [filled(question, tokenizer, cell.prompt) for question in questions(config.prompts, config.seed)]
    steps = config.warmup + config.steps
    task = StepTask(
        str(model), asked, cell.group, cell.response, steps, config.precision, config.compile, config.seed, True
    )
    row: dict[str, Any] = {"prompt_tokens": cell.prompt, "response_tokens": cell.response, "group_size": cell.group}
    try:
        conditions, taken = measure(task, file)
    except RuntimeError as error:
        return row | {"error": str(error)}
    report = summarise({name: side[config.warmup :] for name, side in taken.items()}, {})
    first = report["evolpo"]["steps"][0]
    row |= {name: report[name] for name in ("evolpo_s", "trl_s", "speedup", "evolpo_peak_gb", "trl_peak_gb")}
    row |= {"prompt_tokens_taken": first["prompt_tokens"], "response_tokens_taken": first["response_tokens"]}
    return row | conditions["evolpo"]


def processor() -> str:
    """Name of the processor and what it multiplies with."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "unknown"
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    named = {name.strip(): value.strip() for name, value in fields.items()}
    kinds = [kind for kind in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if kind in named.get("flags", "").split()]
    return f"{named.get('model name', 'unknown')} ({', '.join(kinds)})"


def _write(config: BenchScaleConfig, folder: Path, setting: Mapping[str, Any]) -> dict[str, Any]:
    rows = [read_object(file) for file in sorted(folder.glob("prompt_*.json"))]
    order = {cell: place for place, cell in enumerate(cells(config))}
    named = {Cell(row["prompt_tokens"], row["response_tokens"], row["group_size"]): row for row in rows}
    report = {
        "cells": [named[cell] for cell in sorted(named, key=lambda cell: order.get(cell, len(order)))],
        "processor": processor(),
        "setting": dict(setting) | {"base": config.base, "trl": version("trl")},
    }
    write_json(Path(config.output), report)
    return report


def print_report(report: Mapping[str, Any]) -> None:
    """Print the cells as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "prompt", "response", "group", "evolpo s", "TRL s", "times", "evolpo GB", "TRL GB", title=report["processor"]
    )
    for row in report["cells"]:
        shape = [str(row[name]) for name in ("prompt_tokens", "response_tokens", "group_size")]
        figures = ("evolpo_s", "trl_s", "speedup", "evolpo_peak_gb", "trl_peak_gb")
        table.add_row(
            *shape, *([row["error"].splitlines()[0]] if "error" in row else [f"{row[n]:.2f}" for n in figures])
        )
    Console().print(table)
