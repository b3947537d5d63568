"""Reward functions in the forms that other toolkits document; nothing in here knows of evolpo."""

import asyncio
import functools
import re
from types import SimpleNamespace

import torch

# -- TRL: f(prompts, completions, **columns) -> list[float | None] ------------------------------------------------


def trl_keyword(prompts, completions, keyword, **kwargs):
    """Strings in, a column of the data set by name; None where the column has nothing to look for."""
    assert all(prompt == prompts[0] for prompt in prompts)
    return [None if word is None else float(word in text) for text, word in zip(completions, keyword, strict=True)]


async def trl_slow_judge(completions, log_metric, log_extra, **kwargs):
    await asyncio.sleep(0.3)
    lengths = [len(completion[0]["content"]) for completion in completions]
    log_metric("judge/longest", max(lengths))
    log_extra("length", lengths)
    return [length / max(lengths) for length in lengths]


def trl_scaled(completions, scale, **kwargs):
    return [scale * len(completion) for completion in completions]


trl_doubled = functools.partial(trl_scaled, scale=2.0)


def trl_one_too_few(completions, **kwargs):
    return [1.0] * (len(completions) - 1)


def trl_strict(prompts, completions):
    return [1.0] * len(completions)


# -- verl: compute_score(data_source, solution_str, ground_truth, extra_info) -> float | dict ----------------------


def compute_score(data_source, solution_str, ground_truth, extra_info=None, format_score=0.1):
    """The number after four hashes, as data sets of school mathematics have it."""
    if data_source != "school":
        raise NotImplementedError(f"no reward for {data_source!r}")
    found = re.search(r"#### (-?[0-9.,]+)", solution_str)
    if found is None:
        return 0.0
    right = found.group(1).replace(",", "") == ground_truth
    score = 1.0 if right else format_score
    return {"score": score, "acc": right, "pred": found.group(1), "row": extra_info["index"]}


def compute_score_hanging(data_source, solution_str, ground_truth, extra_info=None):
    while solution_str == "hang":
        pass
    return 1.0


async def compute_score_async(data_source, solution_str, ground_truth, extra_info=None):
    await asyncio.sleep(0.3)
    return float(solution_str == ground_truth)


# -- OpenRLHF: reward_func(queries, prompts, labels) -> tensor | dict ----------------------------------------------


def reward_func(queries, prompts, labels, **kwargs):
    right = [float(q[len(p) :].strip() == label) for q, p, label in zip(queries, prompts, labels, strict=True)]
    reward = torch.tensor(right, dtype=torch.float)
    return {
        "rewards": 2 * reward - 1,
        "scores": reward,
        "extra_logs": {"accuracy": reward.mean(), "length": torch.tensor([len(query) for query in queries])},
    }


def reward_func_plain(queries, prompts, labels):
    return torch.tensor([float(len(query)) for query in queries], dtype=torch.bfloat16, requires_grad=True)


def reward_func_short(queries, prompts, labels):
    return torch.zeros(1)


# -- verifiers: whatever a function names; a Rubric of several -----------------------------------------------------


class Parser:
    def parse_answer(self, completion):
        found = re.search(r"<answer>(.*?)</answer>", completion[-1]["content"])
        return found.group(1) if found else None


def correct(completion, answer, parser):
    return 1.0 if parser.parse_answer(completion) == answer else 0.0


async def brief(completion, state, info, **kwargs):
    assert state["completion"] is completion
    await asyncio.sleep(0.01)
    return 1.0 if len(completion[-1]["content"]) <= info["limit"] else 0.0


def diverse(completions):
    """Share of the group that says something else."""
    texts = [completion[-1]["content"] for completion in completions]
    return [sum(text != other for other in texts) / len(texts) for text in texts]


def echoes(prompt, completion):
    return float(prompt in completion)


def fails_on_silence(completion):
    return 1 / len(completion[-1]["content"])


rubric = SimpleNamespace(funcs=[correct, brief], weights=[1.0, 0.25], class_objects={"parser": Parser()})
rubric_group = SimpleNamespace(
    funcs=[], weights=[], rubrics=[rubric, SimpleNamespace(funcs=[diverse], weights=[0.0], class_objects={})]
)
empty_rubric = SimpleNamespace(funcs=[], weights=[], class_objects={})


NOT_A_FUNCTION = 3
