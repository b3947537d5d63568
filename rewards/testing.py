"""Fixtures and checks for people who write reward plugins."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Coroutine, Sequence
from contextlib import closing
from typing import Any

from evolpo.rewards.base import FunctionReward, Reward, Sample, Score
from evolpo.rewards.service.config import ServiceConfig
from evolpo.rewards.service.service import RewardService

LONG_RESPONSE_CHARACTERS = 200_000


def make_sample(**overrides: Any) -> Sample:
    r"""A plausible sample (the response is right and says `\boxed{4}`), with any of its fields replaced."""
    fields: dict[str, Any] = {
        "prompt": "What is 2 + 2?",
        "text": r"Two and two make four. The answer is \boxed{4}.",
        "answer": "4",
        "difficulty": "easy",
        "metadata": {},
        "token_count": 16,
        "truncated": False,
    }
    return Sample(**{**fields, **overrides})


def make_group(*texts: str, **overrides: Any) -> list[Sample]:
    """Responses to one prompt: these texts, or a right, a wrong and an empty one; `token_count` is their words."""
    texts = texts or (r"It is \boxed{4}.", r"I would say that it must be \boxed{5}.", "")
    return [make_sample(**{"text": text, "token_count": len(text.split()), **overrides}) for text in texts]


def hostile_samples(**overrides: Any) -> list[Sample]:
    """Responses that models do write and that break rewards: a good reward scores all of them, if only with 0.

    Empty, white space, very long, deeply nested, unclosed, other scripts and directions, joined emoji, control
    characters, only special characters, braces and percent signs of templates.
    """
    texts = [
        "",
        " \n\t ",
        "so " * (LONG_RESPONSE_CHARACTERS // 3),
        "x" * LONG_RESPONSE_CHARACTERS,
        "(" * 10_000,
        r"\boxed{" * 1_000,
        r"<answer>\boxed{4",
        "答案是四。 Ответ: ٤ \u202eevil\u202c e\u0301",
        "👩‍👩‍👧‍👦" * 50,
        "\x00\x07\x1b[31m\ufffd",
        r"*/\"'`;--<>&|$(){}[]^.+?",
        "{0} {name} %s %(x)d ${y}",
    ]
    return [make_sample(**{"text": text, "token_count": max(1, len(text) // 4), **overrides}) for text in texts]


def check_reward(reward: Reward, samples: Sequence[Sample], deterministic: bool = True) -> list[Score]:
    """Check a plugin against the protocol and return its scores of the samples.

    The reward service asks the reward, as in training. For a group reward the samples are one group. A reward that
    asks a sampled judge is not deterministic: say so.

    Raises:
        AssertionError: not a `Reward`; cannot run in another process though it is isolated; wrong number or type of
            scores; a sample it failed on, with the error; an empty list it does not answer with an empty list; other
            values the second time, in another order, or when two calls run at once.
    """
    assert isinstance(reward, Reward), f"{reward!r} is no Reward: it needs name, scope and async score()"
    assert reward.scope in ("sample", "group"), f"{reward.name}: scope is {reward.scope!r}, not sample or group"
    if reward.scope == "group":
        one_prompt = len({sample.prompt for sample in samples}) <= 1
        assert one_prompt, f"{reward.name}: a group reward judges the responses to one prompt; use make_group()"
    _check_picklable(reward, samples)
    with closing(_service()) as service:
        return service.run(_checked(service, reward, samples, deterministic)).result()


def _service() -> RewardService:
    """A service that tries once, remembers nothing, and leaves warm workers to the next check."""
    return RewardService(ServiceConfig(retries=0, cache_mb=0), keep_workers=True)


async def _checked(
    service: RewardService, reward: Reward, samples: Sequence[Sample], deterministic: bool
) -> list[Score]:
    def ask(samples: Sequence[Sample]) -> Coroutine[Any, Any, list[Score]]:
        return service.score(reward, samples)

    scores = await ask(samples)
    _check_scores(reward, samples, scores)
    again = await ask(samples)
    empty = await reward.score([])
    assert empty == [], f"{reward.name}: no samples give {empty!r}, not []; return a list as long as the samples"
    backwards = await ask(list(reversed(samples)))
    together = await asyncio.gather(ask(samples), ask(samples))
    for other in (again, backwards, *together):
        _check_scores(reward, samples, other)
    if deterministic:
        values = _values(scores)
        mend = "take randomness from a seed, or pass deterministic=False"
        assert values == _values(again), f"{reward.name}: the same samples give {values}, then {_values(again)}; {mend}"
        for other in together:
            mend = "keep no state between calls"
            assert values == _values(other), f"{reward.name}: {values}, but {_values(other)} at the same time; {mend}"
        if reward.scope == "sample":
            turned = _values(backwards)[::-1]
            mend = "judge each sample by itself, or use @group_reward"
            assert values == turned, f"{reward.name}: {values}, but {turned} in another order; {mend}"
    return scores


def check_failure(reward: Reward, broken: Sample, samples: Sequence[Sample]) -> Score:
    """Check what a plugin does with a sample it cannot judge, and return its score of that sample.

    Give a sample without what the reward needs (no reference, an unreachable judge). It must stay unscored, so that it
    is left out of its group's baseline, and a sample reward must score the others as if it were not there.

    Raises:
        AssertionError: the broken sample got a value, or another sample lost or changed its own.
    """
    with closing(_service()) as service:
        alone = service.run(service.score(reward, samples)).result()
        mixed = service.run(service.score(reward, [*samples, broken])).result()
    last = mixed[-1]
    mend = "let the error out, or return None or Score.infra_error(why); 0 would be trained on"
    assert last.value is None, f"{reward.name}: {last.value} ({last.status}) for a sample it cannot judge; {mend}"
    assert last.error or not last.unscored, (
        f"{reward.name}: {last.status} without a reason; put it into artifacts['error']"
    )
    if reward.scope == "sample":
        values, kept = _values(alone), _values(mixed[:-1])
        assert values == kept, f"{reward.name}: {values} became {kept} beside a broken sample; fail one by one"
    return last


def _check_scores(reward: Reward, samples: Sequence[Sample], scores: Sequence[Score]) -> None:
    failed = [(sample, score) for sample, score in zip(samples, scores, strict=True) if score.unscored]
    for sample, score in failed:
        mend = "set timeout_s" if score.status == "timeout" else "if the response is to blame, Score.model_fail(why)"
        raise AssertionError(f"{reward.name}: {score.status} on {sample.text[:80]!r}: {score.error}; {mend}")


def _check_picklable(reward: Reward, samples: Sequence[Sample]) -> None:
    if not isinstance(reward, FunctionReward):
        return
    try:
        runs_here = reward.target is None
    except ValueError as error:
        raise AssertionError(f"{reward.name}: {error}") from error
    for what, value in () if runs_here else (("options", reward.options), ("samples", list(samples))):
        try:
            pickle.dumps(value)
        except Exception as error:
            mend = "a reward in a worker process takes plain data only"
            raise AssertionError(f"{reward.name}: the {what} cannot be pickled: {error}; {mend}") from error


def _values(scores: Sequence[Score]) -> list[float | None]:
    return [score.value for score in scores]
