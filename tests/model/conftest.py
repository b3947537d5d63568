"""Fixtures of the model's tests."""

import pytest
from small_ling import make_ling

from evolpo.model.ling import BailingMoeV2ForCausalLM


@pytest.fixture
def ling() -> BailingMoeV2ForCausalLM:
    """A fresh small model."""
    return make_ling()
