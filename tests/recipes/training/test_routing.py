"""The share of equal experts, worked by hand."""

import torch

from evolpo.recipes.training.routing import agreement


def test_agreement_worked_by_hand():
    first = torch.tensor([[[0, 1], [2, 3]], [[4, 5], [6, 7]]])  # two tokens, two layers, two experts each
    second = torch.tensor([[[1, 0], [2, 9]], [[4, 5], [8, 9]]])
    assert agreement(first, second) == (0.5, 5 / 8)
    assert agreement(first, first.flip(-1)) == (1.0, 1.0)
