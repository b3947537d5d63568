"""What the data of a run are, and how a problem becomes a prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolpo import InputError
from evolpo.rollout.sources import SourceConfig, check_source

INSTANT_MODE = "detailed think off"
BOXED = "Put the final answer in \\boxed{}."
PROGRAM = "Put the whole program into one fenced block."


@dataclass
class DataConfig:
    """The problems to train on, those held out, and how a problem becomes a prompt."""

    train: list[SourceConfig] = field(default_factory=list)
    """Sources of the training problems; at least one, but for `evolpo evaluate` with sources held out."""
    heldout: list[SourceConfig] = field(default_factory=list)
    """Sources of the held-out problems; if empty, `heldout_size` problems are taken out of `train`."""
    heldout_size: int = 300
    """How many problems to take out of `train`, from each source in proportion to its size."""
    system_prompt: str | None = None
    """System message where a row has none; empty for none; null: `detailed think off`, and none for messages."""
    instruction: str | None = None
    """Appended to the user's text; empty for nothing; null: asks for a box, or a program; nothing for messages."""
    chat_template: str = ""
    """File with a chat template of one's own (Jinja); empty for the tokenizer's."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """What the chat template is given beside the messages, e.g. {enable_thinking: false}."""
    max_prompt_tokens: int = 512
    """Longer prompts are dropped, counted and logged."""
    seed: int | None = None
    """Seed of generated problems and of the held-out split; empty: the run's. Give it to compare seeds on one split."""

    def __post_init__(self) -> None:
        for name in ("train", "heldout"):
            for index, source in enumerate(getattr(self, name)):
                check_source(source, f"data.{name}[{index}]")
        if self.heldout_size < 0:
            raise InputError(f"data.heldout_size: {self.heldout_size} is negative; give 0 or more problems")
        if self.seed is not None and self.seed < 0:
            raise InputError(f"data.seed: {self.seed} is negative; give 0 or more, or leave it empty for the run's")
        if self.max_prompt_tokens < 1:
            raise InputError(f"data.max_prompt_tokens: {self.max_prompt_tokens} leaves no prompt; give at least 1")
        if self.chat_template and not Path(self.chat_template).is_file():
            raise InputError(f"data.chat_template: there is no file {self.chat_template}; give a Jinja template")

    def split_seed(self, run: int) -> int:
        """Seed of generated problems and of the held-out split in a run with this seed."""
        return run if self.seed is None else self.seed

    @property
    def text_instruction(self) -> str:
        """What is appended to a problem that is text and asks for an answer."""
        return BOXED if self.instruction is None else self.instruction

    @property
    def code_instruction(self) -> str:
        """What is appended to a problem that is text and asks for a program."""
        return PROGRAM if self.instruction is None else self.instruction

    @property
    def text_system(self) -> str:
        """System message of a problem that is text and has none of its own."""
        return INSTANT_MODE if self.system_prompt is None else self.system_prompt
