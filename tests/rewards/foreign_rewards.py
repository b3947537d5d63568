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


# -- signatures ----------------------------------------------------------------------------------------------------


def verl_two(solution_str, ground_truth):
    return float(solution_str == ground_truth)


def verl_other_names(response, reference, scale=2.0):
    return {"score": scale * (response == reference), "length": len(response)}


def verl_needs_tokenizer(solution_str, ground_truth, reward_model_tokenizer):
    return 0.0


def verl_ids(solution_str, response_token_ids):
    return float(sum(response_token_ids))


def verl_batch(data_sources, solution_strs, ground_truths, extra_infos, factor=1.0):
    assert len(data_sources) == len(extra_infos)
    return [factor * (text == right) for text, right in zip(solution_strs, ground_truths, strict=True)]


def verl_batch_short(solution_strs, ground_truths):
    return [1.0]


def trl_ids(completions, completion_ids):
    return [float(sum(ids)) for ids in completion_ids]


def trl_state(completions, trainer_state):
    return [0.0 for _ in completions]


def trl_column(completions, keyword):
    return [1.0 for _ in completions]


def trl_all(completions, **kwargs):
    return [float("completion_ids" in kwargs) for _ in completions]


def trl_exact(completions, solution, **columns):
    return [float(one == right) for one, right in zip(completions, solution, strict=True)]


def trl_function_column(completions, function, self, **columns):
    assert function == self == ["area"] * len(completions)
    return [0.5 for _ in completions]


def trl_typed(completions, answer):
    return [float(answer[0] == ["a", 1]) for _ in completions]


def trl_odd_values(completions, **kwargs):
    return [0.5, None, float("nan"), "0.5"][: len(completions)]


def trl_mapping(completions, **kwargs):
    return dict.fromkeys(range(len(completions)), 0.5)


class TrlScaled:
    made = 0

    def __init__(self, factor: float = 1.0):
        type(self).made += 1
        self.factor = factor

    def __call__(self, completions, bonus=0.0, **kwargs):
        assert self.made == 1
        return [self.factor * len(text) + bonus for text in completions]


class NeedsModel:
    def __init__(self, model):
        self.model = model

    def __call__(self, completions, **kwargs):
        return [0.0]


class CannotBeCalled:
    pass


def nemo(ground_truth, response):
    return float(ground_truth == response), ground_truth == response


def nemo_format(ground_truth, response, tag="x"):
    return float(tag in response), None


class RewardOutput:
    def __init__(self, reward, is_correct, metadata):
        self.reward, self.is_correct, self.metadata = reward, is_correct, metadata


def rllm(task_info, action):
    right = task_info["ground_truth"] == action
    return RewardOutput(float(right), right, {"length": len(action), "level": task_info["level"]})


class RllmInput:
    def __call__(self, reward_input):
        return RewardOutput(float(reward_input.model_response == reward_input.task_info["ground_truth"]), True, None)


async def slime_one(args, sample, **kwargs):
    assert (sample.status.name, sample.response_length, sample.metadata) == ("COMPLETED", 1, {"level": 3})
    return {"accuracy": float(sample.response == sample.label), "length": float(len(sample.tokens))}


def slime_many(args, samples):
    return [args.scale * (sample.response == sample.label) for sample in samples]


def _mark(**marks):
    def marked(function):
        for name, value in marks.items():
            setattr(function, name, value)
        return function

    return marked


class TaskData:
    model_fields = ("prompt", "answer", "level")

    def __init__(self, prompt, answer, level=0):
        self.prompt, self.answer, self.level = prompt, answer, level


class SomeTask:
    """As verifiers 0.4 has them: data, and methods marked as rewards and metrics."""

    def __init__(self, data, config=None):
        self.data = data

    @classmethod
    def data_type(cls):
        return TaskData

    @_mark(reward=True, reward_priority=0, _vf_weight=2.0)
    async def right(self, trace):
        return float(trace.last_reply == self.data.answer)

    @_mark(reward=True, _vf_weight=0.5)
    async def level(self, task, trace):
        assert trace.messages[-1].content == trace.completion[-1]["content"] == trace.last_reply
        return {"first": task.level, "second": 1}

    @_mark(metric=True)
    async def length(self, trace):
        return len(trace.last_reply)


class NeedsSandbox(SomeTask):
    @_mark(reward=True, _vf_weight=1.0)
    async def right(self, trace, runtime):
        return 0.0
