"""Tensors that go away: bytes that become free, views that stay right, what stays."""

import torch

from evolpo.rl.training.offload import Away


def test_storages_are_empty_while_they_are_away_and_the_same_bits_after() -> None:
    flat = torch.randn(1000)
    part, other = flat[100:300].view(10, 20), torch.randn(50, dtype=torch.float64)
    before = [one.clone() for one in (flat, part, other)]
    away = Away()
    assert away.send([flat, part, other]) == 4000 + 400  # a shared storage once
    assert flat.untyped_storage().nbytes() == other.untyped_storage().nbytes() == 0
    assert away.send([flat]) == 0
    assert torch.equal(away.seen(part), before[1])
    assert torch.equal(away.seen(other), before[2])
    for _ in range(2):
        away.fetch()
        assert all(torch.equal(one, kept) for one, kept in zip((flat, part, other), before, strict=True))
        assert part.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()
        flat += 1
        before = [one.clone() for one in (flat, part, other)]
        away.send([other, flat])
    away.fetch()
    assert away.seen(part) is part


def test_what_must_stay_stays() -> None:
    weight = torch.randn(10)
    away = Away()
    assert away.send([weight[2:5]], keep=[weight]) == 0
    assert away.seen(weight) is weight


def test_sums_that_are_zero_are_not_copied() -> None:
    sums = torch.zeros(100)
    part = sums[10:20]
    away = Away()
    assert away.send([], zeros=[sums]) == 400
    assert sums.untyped_storage().nbytes() == 0
    away.fetch()
    assert torch.equal(sums, torch.zeros(100))
    part += 1
    assert sums.sum() == 10
