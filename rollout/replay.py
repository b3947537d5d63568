"""Scored groups as JSON and back, exactly: what a step trained on can be trained on again without an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from evolpo.rl.data import Group, Prompt, Response, Span

PROMPT = ("id", "text", "token_ids", "answer", "difficulty", "task")
"""Fields of a prompt that are kept; metadata are for rewards, which have been given."""


def as_json(group: Group) -> dict[str, Any]:
    """A scored group; floats keep every bit, for JSON's are the shortest that read back the same."""
    return {
        "prompt": {name: getattr(group.prompt, name) for name in PROMPT},
        "responses": [asdict(one) for one in group.responses],
        "rewards": list(group.rewards),
        "breakdown": [dict(one) for one in group.breakdown],
        "born": group.born,
    }


def from_json(record: Mapping[str, Any]) -> Group:
    """The group that `as_json` was given.

    Raises:
        KeyError, TypeError, ValueError: it is no such record.
    """
    prompt = record["prompt"]
    return Group(
        Prompt(**{**prompt, "token_ids": tuple(prompt["token_ids"])}),
        tuple(_response(one) for one in record["responses"]),
        tuple(record["rewards"]),
        tuple(record["breakdown"]),
        record["born"],
    )


def _response(record: Mapping[str, Any]) -> Response:
    spans = tuple(Span(**span) for span in record["spans"])
    lists = {"token_ids": tuple(record["token_ids"]), "logprobs": tuple(record["logprobs"]), "spans": spans}
    return Response(**{**record, **lists})
