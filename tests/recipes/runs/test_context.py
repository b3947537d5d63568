"""The context of a model, and what does not fit into it."""

import json
from pathlib import Path
from typing import Any

import pytest

from evolpo import InputError
from evolpo.recipes.runs.context import check_context, context_tokens
from evolpo.rollout.engine import RolloutConfig
from evolpo.rollout.prompts import DataConfig


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"max_position_embeddings": 512, "rope_scaling": None}, 512),
        ({"max_position_embeddings": 512, "rope_scaling": {"type": "linear", "factor": 4.0}}, 2048),
        ({"max_position_embeddings": 512, "rope_parameters": {"rope_type": "dynamic", "factor": 2}}, 1024),
        ({"max_position_embeddings": 512, "rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, 512),
        ({"text_config": {}}, None),
    ],
)
def test_context(tmp_path: Path, config: dict[str, Any], tokens: int | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert context_tokens(str(tmp_path)) == tokens


def test_a_prompt_and_a_response_that_just_fit(tiny_model_path: str) -> None:
    check_context(tiny_model_path, DataConfig(max_prompt_tokens=500), RolloutConfig(max_response_tokens=12))
    with pytest.raises(InputError, match=r"rollout\.max_response_tokens: 13 and .* 513 tokens, more than the 512"):
        check_context(tiny_model_path, DataConfig(max_prompt_tokens=500), RolloutConfig(max_response_tokens=13))
    check_context("somebody/model", DataConfig(), RolloutConfig(max_response_tokens=10**9))  # unknown: vLLM will say
