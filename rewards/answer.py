r"""Is the final answer right? Rule-based verification (R_correct of Evo-CoT, Ling 2.0 report, section 4.2).

Nothing of an answer is executed: `rewards/answers/` parses it, and what has to be computed is computed in a sealed
process with bounded time and memory. Both rewards run in a process that is killed at the deadline, besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolpo.rewards.answers import gym, overlooked, symbolic
from evolpo.rewards.answers.accepted import accepted_answers
from evolpo.rewards.answers.equal import same_answer
from evolpo.rewards.answers.extract import boxed_contents, closing_text, extract_answer, says_nothing
from evolpo.rewards.answers.sealed import ComputationFailed, sealed_call
from evolpo.rewards.base import Sample, Score, sample_reward
from evolpo.rewards.fit import a_plain_answer, needs
from evolpo.rl.data import Prompt

__all__ = ["boxed_contents", "extract_answer", "math_answer", "reasoning_gym_answer"]

SHOWN = 200
"""Characters of an answer in an artifact or an error."""


@sample_reward(isolate=True, preload=symbolic.LIBRARIES)
@needs(a_plain_answer)
def math_answer(sample: Sample, *, tolerant: bool = False) -> Score:
    """1 if the extracted answer is the reference answer, as a person would read both, else 0.

    Numbers are compared as numbers, with their units; words as words; formulas by math-verify. An answer that offers
    several where the reference is one, or that equates numbers which are not equal (`3 = 4`), is 0.

    Args:
        sample: the response; `answer` is its reference, in LaTeX or plain notation, with or without dollar signs; or a
            number, or a list of accepted answers.
        tolerant: take an answer that stands neither in a box nor in `<answer>` tags (see `extract_answer`).

    Raises:
        ValueError: there is no reference answer, or it is of no type that can be compared.
    """
    references = [extract_answer(text) or text for text in accepted_answers(sample.answer)]
    answer = extract_answer(sample.text, tolerant)
    if answer is None:
        return Score.model_fail("no answer found")
    try:
        value = float(any(same_answer(reference, answer) for reference in references))
    except symbolic.TooLarge as error:
        return _at_fault(answer, error)
    except ComputationFailed as error:
        if not all(same_answer(reference, reference) for reference in references):
            raise
        return _at_fault(answer, error)
    return Score(value, metrics={"marks": value}, artifacts={"answer": answer[:SHOWN]})


def _an_entry(prompt: Prompt, **_: Any) -> str | None:
    if isinstance(prompt.metadata.get("entry"), Mapping):
        return None
    return "metadata['entry'] is missing; reasoning_gym judges what reasoning-gym generated, math any reference answer"


@sample_reward(isolate=True, preload=gym.LIBRARIES)
@needs(_an_entry)
def reasoning_gym_answer(sample: Sample, *, tolerant: bool = False) -> Score:
    """1 if reasoning-gym's own verifier of the task family gives the extracted answer full marks, else 0.

    Partial marks count 0, because a verifier gives some of them for mere resemblance; the marks are kept in the metric
    `marks`. Nor do full marks for an answer that is wrong in a way which a verifier overlooks
    (`overlooked.wrong_for`). The problem comes from `metadata["entry"]`, as reasoning-gym generated it; its family
    from `metadata["entry"]["metadata"]["source_dataset"]`, else from `metadata["family"]`.

    Args:
        sample: the response.
        tolerant: take an answer that stands neither in a box nor in `<answer>` tags (see `extract_answer`).

    Raises:
        ValueError: the metadata lacks the entry, its reference answer or the family.
        ComputationFailed: the verifier fails on the reference as well, or the family is unknown.
    """
    entry = sample.metadata.get("entry")
    if not isinstance(entry, Mapping):
        raise ValueError("metadata['entry'] is missing: the reward needs the problem as reasoning-gym generated it")
    family = (entry.get("metadata") or {}).get("source_dataset") or sample.metadata.get("family")
    if not family:
        raise ValueError("the task family is missing: neither entry['metadata']['source_dataset'] nor 'family' is set")
    if entry.get("answer") is None and family not in gym.WITHOUT_REFERENCE:
        raise ValueError(f"the entry has no reference answer, which {family} needs")
    scores = [_judged(str(family), answer, entry) for answer in _candidates(sample.text, tolerant, entry)]
    return max(scores, key=_value, default=Score.model_fail("no answer found"))


def _value(score: Score) -> float:
    return score.value or 0.0


def _candidates(text: str, tolerant: bool, entry: Mapping[str, Any]) -> list[str]:
    """The answer; loosely given, it may go on over lines and sentences; nothing is an answer if nothing is right."""
    strict = extract_answer(text)
    if strict is not None:
        return [strict]
    if entry.get("answer") == "" and says_nothing(text):
        return [""]
    loose = [extract_answer(text, tolerant=True), closing_text(text)] if tolerant else []
    return list(dict.fromkeys(answer for answer in loose if answer is not None))


def _judged(family: str, answer: str, entry: Mapping[str, Any]) -> Score:
    """The verifier's verdict.

    Some verifiers raise when an answer is malformed ("abc" for a list of numbers). Only if the same verifier takes the
    reference at that moment (an empty answer, where there is none) is this proven to be the response's fault; any other
    exception goes on its way, to become an infra_error.
    """
    try:
        answer = gym.readable(family, answer, entry)
    except ValueError as error:
        _try_reference(family, entry)
        return _at_fault(answer, error)
    try:
        marks = sealed_call(gym.marks, family, answer, entry, libraries=gym.LIBRARIES)
    except ComputationFailed as error:
        _try_reference(family, entry)
        return _at_fault(answer, error)
    if marks >= 1.0 and (reason := overlooked.wrong_for(family, answer, entry)):
        return Score(0.0, metrics={"marks": marks}, artifacts={"answer": answer[:SHOWN], "reason": reason})
    return Score(float(marks >= 1.0), metrics={"marks": marks}, artifacts={"answer": answer[:SHOWN]})


def _try_reference(family: str, entry: Mapping[str, Any]) -> None:
    """Raise what the verifier raises on the reference, or on an empty answer where there is none."""
    reference = entry.get("answer")
    sealed_call(gym.marks, family, reference if isinstance(reference, str) else "", entry, libraries=gym.LIBRARIES)


def _at_fault(answer: str, error: Exception) -> Score:
    return Score.model_fail(f"malformed answer {answer[:SHOWN]!r}: {error}")
