"""The reward of instruction following: how many of a prompt's instructions does the response follow?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from evolpo.rewards.base import Sample, Score, sample_reward
from evolpo.rewards.fit import needs
from evolpo.rewards.instructions.rows import Instruction, instructions_of
from evolpo.rewards.thoughts import without_thoughts
from evolpo.rl.data import Prompt

Mode = Literal["share", "all"]


def _instructions(prompt: Prompt, **_: Any) -> str | None:
    try:
        instructions_of(prompt.answer, prompt.metadata)
    except ValueError as error:
        return str(error)
    return None


@sample_reward(isolate=True, preload=("nltk.tokenize", "py3langid.langid"))
@needs(_instructions)
def instructions_followed(sample: Sample, *, mode: Mode = "share", loose: bool = False) -> Score:
    """The share of the prompt's instructions that the response follows, its thoughts left out.

    Metrics are `followed` (the share), `all` (1 if it is all of them), and the share by family, as `keywords`;
    artifacts name the instructions that are not followed.

    Args:
        sample: the response; the metadata have the columns of IFEval, or the answer is that of RLVR-IFeval.
        mode: `share`, or `all`: 1 if all are followed, else 0, which is IFEval's accuracy by prompt.
        loose: whether an instruction is also followed if it is by the response without its first line, its last line,
            its asterisks, or several of these (the eight readings of IFEval, section 2.2).

    Raises:
        ValueError: there are no instructions, or one is unknown or has wrong parameters.
    """
    instructions = instructions_of(sample.answer, sample.metadata)
    text = without_thoughts(sample.text)
    if text is None:
        return Score.model_fail("its thoughts have no end")
    texts = readings(text) if loose else [text]
    followed = [any(map(one.followed_by, texts)) for one in instructions]
    share = sum(followed) / len(followed)
    broken = [one.name for one, done in zip(instructions, followed, strict=True) if not done]
    return Score(
        share if mode == "share" else float(all(followed)),
        metrics={"followed": share, "all": float(all(followed)), **_by_family(instructions, followed)},
        artifacts={"not_followed": broken} if broken else {},
    )


def readings(text: str) -> list[str]:
    """The response, and without its first line, its last line or both; each of them with and without asterisks."""
    lines = text.split("\n")
    parts = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return list(dict.fromkeys([*parts, *(part.replace("*", "") for part in parts)]))


def _by_family(instructions: Sequence[Instruction], followed: Sequence[bool]) -> Mapping[str, float]:
    families: dict[str, list[bool]] = {}
    for one, done in zip(instructions, followed, strict=True):
        families.setdefault(one.family, []).append(done)
    return {family: sum(done) / len(done) for family, done in families.items()}
