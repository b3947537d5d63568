"""Examples for decoupled fine-tuning (Ling 2.0 technical report, section 4.1): one model, two modes by system prompt.

RL can only reinforce what is sampled. So the instant mode is taught as a mix of depths: some of its responses give the
answer at once, others reason in sentences, and then go back over none, some or all of their steps. RL finds which depth
pays for which problem, and the depth of reasoning evolves. The deep mode always thinks its long chain: every step, and
the whole way back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Literal

import numpy as np

from evolpo import InputError
from evolpo.rollout.data.cells import check_row, column
from evolpo.rollout.data.files import read_rows
from evolpo.rollout.data.messages import Message, as_messages, as_tools, system_of, transcript, without_reply
from evolpo.rollout.prompts import BOXED, INSTANT_MODE, Problem, user_message

DEEP_MODE = "detailed think on"
PATH = "path"
"""The field that names the file of examples."""
Mode = Literal["direct", "sentences", "deep", "given"]

_TERM = re.compile(r"-?\d+")


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation to be imitated; only the response is learnt."""

    system: str
    """System message, empty for none."""
    prompt: str
    """User message, complete with any instruction."""
    response: str
    """What the model shall say."""
    mode: Mode = "given"
    """How the response was made: `given` if it was read from a file."""
    turns: tuple[Message, ...] = ()
    """The conversation before the response, where the file has messages; goes through the chat template as it is."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """JSON schemas of the tools that the chat template is to offer."""
    place: str = field(default="", compare=False)
    """Where it stands in its file, for messages."""


def dft_examples(
    problems: Sequence[Problem],
    seed: int,
    direct_share: float = 0.65,
    deep_share: float = 0.0,
    instruction: str = BOXED,
    checked_share: float = 0.0,
) -> list[Example]:
    """One example for each chain_sum problem, in the order of the problems, the modes mixed by `seed`.

    Args:
        problems: chain_sum problems of reasoning-gym.
        seed: decides which problem gets which mode; not negative.
        direct_share: share of the instant examples that answer at once; the others reason in sentences.
        deep_share: share of all examples that are in deep mode (`detailed think on`).
        instruction: appended to each problem; the same as `data.instruction` of the RL that follows.
        checked_share: mean share of the steps of a reasoned instant example that are checked after the last one. Each
            example has a share of its own, from Beta(2 mean, 2 - 2 mean), which is flat where the mean is 0.5: so
            responses without any check are as well practised as thorough ones.

    Raises:
        InputError: a problem is no chain_sum, or its answer is not the value of its expression.
        ValueError: a share is outside 0 to 1.
    """
    shares = {"direct_share": direct_share, "deep_share": deep_share, "checked_share": checked_share}
    if not all(0 <= share <= 1 for share in shares.values()):
        raise ValueError(f"shares lie between 0 and 1, not {shares}")
    deep = round(deep_share * len(problems))
    direct = round(direct_share * (len(problems) - deep))
    order = np.random.default_rng(seed).permutation(len(problems))
    checks = np.random.default_rng([seed, 3])
    examples = []
    for problem, place in zip(problems, order, strict=True):
        terms = _parse_terms(problem)
        if place < deep:
            mode: Mode = "deep"
            steps = _running_sums(terms, len(terms) - 1)
        elif place < deep + direct:
            mode, steps = "direct", ""
        else:
            mode = "sentences"
            own = checks.beta(2 * checked_share, 2 - 2 * checked_share) if 0 < checked_share < 1 else checked_share
            steps = _running_sums(terms, int(checks.binomial(len(terms) - 1, own)))
        examples.append(_example(problem, mode, steps, sum(terms), instruction))
    return examples


def read_examples(path: str) -> list[Example]:
    """Read examples from a file or folder of any format that `read_rows` knows.

    A row has `prompt` and `response` and, if wanted, `system` (default: instant mode); or `messages`, or ShareGPT's
    `conversations`, of which the last one is the response. A `prompt` may also be messages.

    Raises:
        InputError: the file is missing, malformed or empty, or a column is not there or holds no text.
    """
    examples = [_read_example(row, place) for place, row in read_rows(path, PATH)]
    if not examples:
        raise InputError(f"{PATH}: {path} holds no example; give one JSON object a line, with prompt and response")
    return examples


def _read_example(row: dict[str, Any], place: str) -> Example:
    check_row(row, place, PATH)
    tools = as_tools(row.get("tools"), place, PATH)
    for name in ("messages", "conversations"):
        messages = as_messages(row.get(name), place, PATH)
        if messages is not None:
            return replace(_last_turn(messages, place, name), tools=tools, place=place)
    turns = as_messages(row.get("prompt"), place, PATH)
    prompt = transcript(turns) if turns else column(row, "prompt", place, PATH)
    texts = {"prompt": prompt, "response": column(row, "response", place, PATH)}
    texts["system"] = row.get("system", INSTANT_MODE)
    for name, text in texts.items():
        if not isinstance(text, str) or (name != "system" and not text.strip()):
            raise InputError(f"{PATH}: {place}: column {name!r} holds {text!r}; it must hold text")
    if turns and "system" in row and system_of(turns) is None:
        turns = ({"role": "system", "content": texts["system"]}, *turns)
    return Example(texts["system"], texts["prompt"], texts["response"], turns=turns or (), tools=tools, place=place)


def _last_turn(messages: tuple[Message, ...], place: str, name: str) -> Example:
    asked = without_reply(messages)
    if len(asked) != len(messages) - 1 or not asked:
        message = f"column {name!r} does not end with one turn of the assistant after another's, which is the response"
        raise InputError(f"{PATH}: {place}: {message}")
    response = str(messages[-1]["content"])
    if not response.strip():
        calls = ", but calls of tools, which are not learnt" if messages[-1].get("tool_calls") else ""
        raise InputError(
            f"{PATH}: {place}: the last message of column {name!r} holds no text{calls}; leave the row out"
        )
    return Example(system_of(asked) or "", transcript(asked), response, turns=asked)


def _example(problem: Problem, mode: Mode, steps: str, total: int, instruction: str) -> Example:
    answer = f"The answer is \\boxed{{{total}}}."
    system, response = INSTANT_MODE, f"{steps} {answer}".lstrip()
    if mode == "deep":
        system, response = DEEP_MODE, f"<think> {steps or answer} </think> <answer> {answer} </answer>"
    return Example(system, user_message(problem.text, instruction), response, mode)


def _running_sums(terms: Sequence[int], checks: int) -> str:
    """A sentence a step, e.g. `12 + 45 = 57. 57 - 33 = 24.` for (12, 45, -33); empty for a single term.

    Checks are the way back, from the last step on: `12 + 45 = 57. 57 - 33 = 24. 24 + 33 = 57. 57 - 45 = 12.` has both.

    Args:
        terms: signed terms.
        checks: how many steps are checked.
    """
    totals = list(accumulate(terms))
    forth = [_step(total, term) for total, term in zip(totals, terms[1:], strict=False)]
    back = [_step(total, -term) for total, term in zip(totals[:0:-1], terms[:0:-1], strict=True)]
    return " ".join([*forth, *back[:checks]])


def _step(total: int, term: int) -> str:
    """`12 + 45 = 57.`; a term of zero is added."""
    return f"{total} {'-' if term < 0 else '+'} {abs(term)} = {total + term}."


def _parse_terms(problem: Problem) -> list[int]:
    """The signed terms of the expression, checked against the answer."""
    expression = problem.metadata.get("entry", {}).get("metadata", {}).get("expression")
    if expression is None:
        expression = problem.text.rpartition(":")[2].strip(" =")
    tokens = expression.split()
    numbers, operators = tokens[::2], tokens[1::2]
    well_formed = len(tokens) % 2 == 1 and all(map(_TERM.fullmatch, numbers)) and set(operators) <= {"+", "-"}
    if not well_formed:
        raise InputError(
            f"data.train: problem {problem.id} ({problem.text[:60]!r}) is no chain_sum; "
            "make examples from chain_sum problems or read your own"
        )
    signs = [1] + [1 if operator == "+" else -1 for operator in operators]
    terms = [sign * int(number) for sign, number in zip(signs, numbers, strict=True)]
    if str(problem.answer).strip() != str(sum(terms)):
        raise InputError(
            f"data.train: problem {problem.id}: {expression} is {sum(terms)}, not {problem.answer}; mend the answer"
        )
    return terms
