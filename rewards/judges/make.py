"""The judge that a configuration describes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from evolpo import InputError
from evolpo.rewards.judges.judge import Judge
from evolpo.rewards.judges.openai import OpenAIJudge
from evolpo.rewards.judges.rules import RuleJudge
from evolpo.rewards.service.workers import describe


def make_judge(judge: Judge | str | Mapping[str, Any], field: str = "judge") -> Judge:
    """The judge that a configuration describes.

    Args:
        judge: `rules` (`RuleJudge`, for tests and examples); `module:attribute`, an object with `ask` such as a
            `BatchJudge` around a model in this process; the arguments of `OpenAIJudge`; or a judge, which is returned.
        field: name of the configuration field, for messages.

    Raises:
        InputError: none of these, or a setting that makes no sense.
    """
    if isinstance(judge, Mapping):
        known = inspect.signature(OpenAIJudge).parameters
        for name in judge:
            if name not in known:
                raise InputError(f"{field}.{name}: there is no such setting; there are {', '.join(known)}")
        for name in ("base_url", "model"):
            if name not in judge:
                raise InputError(f"{field}.{name}: is missing; give the judge's address and the model's name there")
        try:
            return OpenAIJudge(**judge)
        except InputError as error:
            raise InputError(f"{field}.{error}") from None
    if judge == "rules":
        return RuleJudge()
    found = _imported_judge(judge, field) if isinstance(judge, str) else judge
    if isinstance(found, Judge) and not isinstance(found, type):
        return found
    raise InputError(f"{field}: {judge!r} is no judge; give base_url and model, module:attribute, or rules")


def _imported_judge(path: str, field: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute) if attribute else None
    except Exception as error:
        raise InputError(f"{field}: {path} cannot be imported: {describe(error)}") from error
