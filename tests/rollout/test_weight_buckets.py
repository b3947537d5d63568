"""Tensors come out of buckets as they went in."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from evolpo.rollout.weights import ALIGNMENT, packed, unpacked

TYPES = [torch.float32, torch.bfloat16, torch.float16, torch.uint8, torch.float8_e4m3fn, torch.int64]
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@given(st.lists(st.tuples(shapes, st.sampled_from(TYPES)), max_size=12), st.integers(1, 600))
def test_tensors_come_out_as_they_went_in(wanted: list[tuple[tuple[int, ...], torch.dtype]], size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"layer.{i}": torch.randint(0, 256, (*shape, dtype.itemsize), generator=generator, dtype=torch.uint8)
        .view(dtype)
        .reshape(shape)
        for i, (shape, dtype) in enumerate(wanted)
    }
    found: dict[str, torch.Tensor] = {}
    for contents, bucket in packed(tensors.items(), size):
        assert bucket.dtype == np.uint8
        assert len(contents) == 1 or bucket.nbytes <= size + ALIGNMENT
        bucket.flags.writeable = False  # as Ray hands it over
        found |= unpacked(contents, bucket)
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_weights_that_are_laid_out_otherwise_and_still_change() -> None:
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    buckets = packed([("w", weight.t())])
    weight.data += 1  # a bucket is made when it is asked for
    [(contents, bucket)] = list(buckets)
    [(name, tensor)] = unpacked(contents, bucket)
    assert name == "w"
    assert torch.equal(tensor, weight.detach().t())
