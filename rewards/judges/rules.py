"""A judge without a model, for tests and examples; it can be made to err."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from evolpo.rewards.judges.judge import JudgeError, Message, Reply, unfenced

_WORD = re.compile(r"\w+")


def vocabulary(text: str) -> float:
    """d / (d + 100) for d different words, regardless of case: 0 for none, towards 1 for many."""
    words = len(set(_WORD.findall(text.lower())))
    return words / (words + 100)


class RuleJudge:
    """Judges by a function of the response alone; reads the same prompts as a model and answers in JSON.

    A pair goes to the higher quality, equal ones tie; a dimension of a rubric gets 1 + 4 * quality, rounded. With
    `error_rate` p, each answer (each dimension by itself) is wrong with probability p: the other response, either of
    them instead of a tie, any of the five marks. Errors depend on the seed and the prompt alone, so that they repeat
    whatever the order of the calls, and are independent between the two orders of a pair.
    """

    def __init__(self, quality: Callable[[str], float] = vocabulary, error_rate: float = 0.0, seed: int = 0) -> None:
        """Judge by `quality`, which maps a response to 0..1. Raises ValueError if `error_rate` is no probability."""
        if not 0 <= error_rate <= 1:
            raise ValueError(f"error_rate: {error_rate} is no probability; give 0 to 1")
        self._quality, self._error_rate, self._seed = quality, error_rate, seed

    async def ask(self, messages: Sequence[Message]) -> Reply:
        """Answer the form in the last line of the last message. Raises JudgeError if there is none to be read."""
        text = messages[-1].text
        random_ = random.Random(f"{self._seed}:{text}")
        try:
            form = json.loads(text.rpartition("\n")[2])
            materials = unfenced(text)
            answer = self._winner(materials, random_) if "winner" in form else self._marks(form, materials, random_)
        except (ValueError, KeyError, TypeError) as error:
            raise JudgeError(f"the rule-based judge cannot read its prompt: {error!r}") from error
        return Reply(json.dumps(answer))

    def _winner(self, materials: dict[str, str], random_: random.Random) -> dict[str, Any]:
        lead = self._quality(materials["RESPONSE A"]) - self._quality(materials["RESPONSE B"])
        winner = "A" if lead > 0 else "B" if lead < 0 else "tie"
        if random_.random() < self._error_rate:
            winner = {"A": "B", "B": "A", "tie": random_.choice("AB")}[winner]
        return {"winner": winner}

    def _marks(self, form: dict[str, Any], materials: dict[str, str], random_: random.Random) -> dict[str, Any]:
        mark = 1 + round(4 * min(max(self._quality(materials["RESPONSE"]), 0.0), 1.0))
        return {name: random_.randint(1, 5) if random_.random() < self._error_rate else mark for name in form}
