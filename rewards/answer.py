r"""Is the final answer right? Rule-based verification (R_correct of Evo-CoT, Ling 2.0 report, section 4.2).

The verifiers evaluate and simplify what the model wrote (some of reasoning-gym's call `eval` on it), so an answer such
as `9**9**9**9` keeps them busy for ever: both rewards run in a process that is killed at the deadline.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from evolpo.rewards.answers_of import answer_texts
from evolpo.rewards.base import Sample, Score, sample_reward
from evolpo.rewards.fit import an_answer, needs
from evolpo.rewards.service.workers import describe
from evolpo.rl.data import Prompt

_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
_ANSWER_PHRASE = re.compile(r"\banswer\b[*_\s]*(?:is\b|[:=])[*_\s:]*", re.IGNORECASE)
_DOLLARS = re.compile(r"\$+[^$\n]+\$")
_SENTENCE_END = re.compile(r"[.;!?](?:\s|$)")
_MINUS = str.maketrans({"\u2212": "-", "\u2013": "-", "\uff0d": "-"})
"""Minus sign, en dash and full-width hyphen, which models write for a minus."""
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?")
_LOGICAL_OR = re.compile(r"\\(?:lor|vee)(?![A-Za-z])")


def boxed_contents(text: str) -> list[str]:
    r"""What stands inside each `\boxed{...}` with balanced braces, stripped, in the order in which they open."""
    found: list[tuple[int, str]] = []
    open_braces: list[tuple[bool, int]] = []  # Whether it is a box, and where its content starts.
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "}":
            if open_braces:
                boxed, start = open_braces.pop()
                if boxed:
                    found.append((start, text[start : match.start()].strip()))
        elif token.endswith("{") and token != r"\{":
            open_braces.append((token != "{", match.end()))
    return [content for _, content in sorted(found)]


def extract_answer(text: str, tolerant: bool = False) -> str | None:
    r"""The final answer of a response, or None if there is none.

    The last non-empty `\boxed{...}` with balanced braces; else the last `<answer>...</answer>`. If `tolerant`, else
    what follows the last "the answer is" up to the end of the sentence; else the last number, without thousands commas.
    Dollar signs and a `\text{}` around the whole answer are taken off.
    """
    boxes = [content for content in boxed_contents(text) if content]
    if boxes:
        return _unwrapped(boxes[-1])
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    if start >= 0 and (tagged := _unwrapped(text[start + len("<answer>") : end])):
        return tagged
    return _loose_answer(text) if tolerant else None


def _loose_answer(text: str) -> str | None:
    phrases = list(_ANSWER_PHRASE.finditer(text))
    if phrases:
        line = text[phrases[-1].end() :].partition("\n")[0]
        formula = _DOLLARS.match(line)
        phrase = formula.group() if formula else _SENTENCE_END.split(line, maxsplit=1)[0]
        if answer := _unwrapped(phrase.strip("*_`\"' ")):
            return answer
    numbers = _NUMBER.findall(text.translate(_MINUS))
    return numbers[-1].replace(",", "") if numbers else None


def _unwrapped(answer: str) -> str:
    answer = answer.strip().strip("$").strip()
    wrapper = _WRAPPER.fullmatch(answer)
    return wrapper.group(1).strip() if wrapper else answer


def _an_entry(prompt: Prompt, **_: Any) -> str | None:
    if isinstance(prompt.metadata.get("entry"), Mapping):
        return None
    return "metadata['entry'] is missing; reasoning_gym judges what reasoning-gym generated, math any reference answer"


@sample_reward(isolate=True, preload=("reasoning_gym",))
@needs(_an_entry)
def reasoning_gym_answer(sample: Sample, *, tolerant: bool = False) -> Score:
    """1 if reasoning-gym's own verifier of the task family gives the extracted answer full marks, else 0.

    Partial marks count 0, because a verifier gives some of them for mere resemblance; the marks are kept in the metric
    `marks`. The problem comes from `metadata["entry"]`, as reasoning-gym generated it; its family from
    `metadata["entry"]["metadata"]["source_dataset"]`, else from `metadata["family"]`.

    Args:
        sample: the response.
        tolerant: take an answer that stands neither in a box nor in `<answer>` tags (see `extract_answer`).

    Raises:
        ValueError: the metadata lacks the entry or the family, or the family is unknown.
    """
    entry = sample.metadata.get("entry")
    if not isinstance(entry, Mapping):
        raise ValueError("metadata['entry'] is missing: the reward needs the problem as reasoning-gym generated it")
    family = (entry.get("metadata") or {}).get("source_dataset") or sample.metadata.get("family")
    if not family:
        raise ValueError("the task family is missing: neither entry['metadata']['source_dataset'] nor 'family' is set")
    answer = extract_answer(sample.text, tolerant)
    if answer is None:
        return Score.model_fail("no answer found")
    verifier = _reasoning_gym_verifier(family)
    return _judged(lambda given: float(verifier(given, entry)), answer, entry.get("answer"))


@functools.cache
def _reasoning_gym_verifier(family: str) -> Callable[[str, Mapping[str, Any]], float]:
    import reasoning_gym

    verifier: Callable[[str, Mapping[str, Any]], float] = reasoning_gym.get_score_answer_fn(family)
    return verifier


@sample_reward(isolate=True, preload=("math_verify",))
@needs(an_answer)
def math_answer(sample: Sample, *, tolerant: bool = False) -> Score:
    """1 if math-verify finds the extracted answer equivalent to the reference answer, else 0.

    Units after a number do not count. An answer that offers alternatives which the reference does not, or that equates
    numbers which are not equal (`3 = 4`), is 0.

    Args:
        sample: the response; `answer` is its reference, in LaTeX or plain notation, with or without dollar signs, or a
            list of accepted ones.
        tolerant: take an answer that stands neither in a box nor in `<answer>` tags (see `extract_answer`).

    Raises:
        ValueError: there is no reference answer, or nothing in it can be parsed.
    """
    accepted = answer_texts(sample.answer)
    if not accepted:
        raise ValueError("the prompt has no reference answer")
    scores = [_math_score(sample.text, reference, tolerant) for reference in accepted]
    return max(scores, key=lambda score: score.value or 0.0)


def _math_score(text: str, given_reference: str, tolerant: bool) -> Score:
    """The score by one of the accepted answers."""
    reference = extract_answer(given_reference) or _unwrapped(given_reference)
    gold = _parsed(reference)
    if not gold:
        raise ValueError(f"the reference answer {given_reference!r} cannot be parsed")
    answer = extract_answer(text, tolerant)
    if answer is None:
        return Score.model_fail("no answer found")

    def marks(given: str) -> float:
        from math_verify import verify

        parsed = _parsed(given)
        if _is_hedged(given, reference) or (parsed and _is_false_equation(parsed[0])):
            return 0.0
        return float(verify(gold, parsed, timeout_seconds=None, raise_on_error=True))

    return _judged(marks, answer, reference)


def _is_hedged(answer: str, reference: str) -> bool:
    """Whether the answer is a disjunction where the reference is none: math-verify would compare its last part."""
    return bool(_LOGICAL_OR.search(answer)) and not _LOGICAL_OR.search(reference)


def _is_false_equation(parsed: Any) -> bool:
    """Whether it equates two numbers that differ by over 1%: math-verify would compare the right one alone."""
    if getattr(parsed, "rel_op", "") != "==" or not (parsed.lhs.is_number and parsed.rhs.is_number):
        return False
    left, right = complex(parsed.lhs), complex(parsed.rhs)
    return abs(left - right) > 0.01 * max(abs(left), abs(right))


def _parsed(answer: str) -> list[Any]:
    """Expressions and strings that math-verify sees in an answer; its own timeouts, signals, are off."""
    from math_verify import parse

    # It warns that its timeouts are off; the deadline of the worker process stands in for them.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    parsed: list[Any] = parse(f"${_leading_minus(answer)}$", parsing_timeout=None, raise_on_error=True)
    return parsed


def _leading_minus(answer: str) -> str:
    """The answer with a proper minus sign; a dash between two numbers is left alone, it may mean a range."""
    return answer[:1].translate(_MINUS) + answer[1:]


def _judged(marks: Callable[[str], float], answer: str, reference: str | None) -> Score:
    """1 for full marks, else 0.

    Some verifiers raise when an answer is malformed ("abc" for a list of numbers). Only if the same verifier gives the
    reference answer full marks at that moment is this proven to be the response's fault; any other exception goes on
    its way, to become an infra_error.
    """
    try:
        value = marks(answer)
    except (ImportError, MemoryError, OSError):
        raise
    except Exception as error:
        if reference is None or marks(reference) < 1.0:
            raise
        return Score.model_fail(f"malformed answer {answer[:200]!r}: {describe(error)}")
    return Score(float(value >= 1.0), metrics={"marks": value}, artifacts={"answer": answer})
