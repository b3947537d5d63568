"""The start-up check of kernels: it passes what is right, and finds what is not."""

from types import SimpleNamespace

import pytest
import torch

from evolpo import InputError
from evolpo.model import kernel_check
from evolpo.model.kernel_check import check_kernels
from evolpo.model.kernels import causal_attention, general_attention

CONFIG = SimpleNamespace(num_attention_heads=8, num_key_value_heads=2, hidden_size=256)
CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [CONFIG, SimpleNamespace(num_attention_heads=3, hidden_size=192, head_dim=64)])
def test_right_kernels_pass(dtype: torch.dtype, config: SimpleNamespace) -> None:
    check_kernels(config, dtype, CPU, fp8=True)


class WrongBackward(torch.autograd.Function):
    """Right forward, and a gradient that is a tenth too large."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * 1.1


WRONG = {
    "scale": ("causal_attention", lambda q, k, v, s: causal_attention(q, k, v, 0.1), "causal attention.*forward"),
    "backward": (
        "causal_attention",
        lambda q, k, v, s: causal_attention(q, WrongBackward.apply(k), v, s),
        "causal attention.*2nd gradient",
    ),
    "window": ("general_attention", lambda q, k, v, s, t: general_attention(q, k, v, s), "in a window.*forward"),
    "not a number": ("causal_attention", lambda q, k, v, s: causal_attention(q, k, v, s) * torch.nan, "nan"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", WRONG)
def test_wrong_kernels_are_found(monkeypatch: pytest.MonkeyPatch, kind: str, dtype: torch.dtype) -> None:
    name, function, message = WRONG[kind]
    monkeypatch.setattr(kernel_check, name, function)
    with pytest.raises(InputError, match=message):
        check_kernels(CONFIG, dtype, CPU)
