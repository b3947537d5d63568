"""What flows through a run: prompts become groups of responses, groups become a batch. All of it is frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length"]
Answer = str | int | float | bool | list[Any] | dict[str, Any] | None
"""A reference answer as the data have it: any JSON value; a list holds several accepted answers."""

LENGTH_ALPHA = "length_alpha"
"""Key of a prompt's metadata: strength of the length reward, set by the curriculum."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One problem, ready to be sampled from."""

    id: str
    """Stable and unique inside its data set; the same problem always has the same id."""
    text: str
    """The problem as the user would write it, before the chat template."""
    token_ids: tuple[int, ...]
    """What the engine is given: the problem inside the chat template, ready for the response."""
    answer: Answer = None
    """The reference answer, with the type that the data give it; None if they have none."""
    difficulty: str = ""
    """Name of the difficulty level, empty if the data has none."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Everything else a reward may need, as the data source gave it."""
    task: str = ""
    """Name of the task, which chooses among the components of the reward; empty if the data has none."""


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of a response that follow each other and were sampled by one version of the policy."""

    version: int
    """Number of finished training steps."""
    tokens: int


@dataclass(frozen=True, slots=True)
class Response:
    """One sampled response. Token ids are the truth; the text is derived from them."""

    token_ids: tuple[int, ...]
    """Sampled tokens, the end-of-sequence token included if it was sampled."""
    text: str
    """The tokens detokenised, special tokens left out."""
    logprobs: tuple[float, ...]
    """Log-probability of each sampled token as the rollout engine saw it, in nats."""
    finish_reason: FinishReason
    """`stop`: ended by itself; `length`: cut off at the token budget."""
    spans: tuple[Span, ...] = ()
    """Who sampled which tokens, in their order; empty where one version has sampled all."""

    @property
    def truncated(self) -> bool:
        """Whether the response was cut off at the token budget."""
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class Group:
    """The responses sampled for one prompt, and, once scored, their rewards."""

    prompt: Prompt
    responses: tuple[Response, ...]
    rewards: tuple[float | None, ...] = ()
    """One reward a response; None where it could not be scored. Empty before scoring."""
    breakdown: tuple[Mapping[str, float | None], ...] = ()
    """Per response: the value of each reward component by name. Empty before scoring."""
    born: int = 0
    """Version of the policy when it was asked for, where sampling runs beside training."""


@dataclass(frozen=True, slots=True)
class Row:
    """One response as the trainer sees it."""

    group: int
    """Index of the response's group in the step; rows of one group share their prompt."""
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    units: tuple[int, ...]
    """Unit of every response token: 0, 0, 1, 1, 1, 2 ..."""
    advantage: float
    rollout_logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one step that carry a signal."""

    rows: tuple[Row, ...]

    @property
    def response_tokens(self) -> int:
        """Number of response tokens in the batch."""
        return sum(len(row.response_ids) for row in self.rows)
