"""One rank that loads a model in shards, from the start or after it was whole; prints what that took as JSON.

Usage: python loading_worker.py HOW MODEL PRECISION; HOW is sharded, whole, or fails: then rank 1 raises on its way.
"""

import ctypes
import hashlib
import json
import os
import sys
from itertools import count
from pathlib import Path

import deepspeed
import torch
from deepspeed.runtime.zero import partition_parameters

from evolpo.model import DTYPES, load_model
from evolpo.rl.training.distributed import init_distributed
from evolpo.rl.training.sharded import _settings, load_sharded

MIB = 1 << 20


def own_memory() -> int:
    """Bytes that are this process's alone: not those of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


def main(how: str, path: str, precision: str) -> None:
    rank, _ = init_distributed()
    dtype = DTYPES[precision]
    before, seen, plain, calls = own_memory(), [], partition_parameters.dist.broadcast, count()

    def broadcast(*args, **kwargs):
        """DeepSpeed calls it for every parameter before it cuts it."""
        seen.append(own_memory())
        if how == "fails" and rank == 1 and next(calls) == 5:
            raise OSError("cannot read")
        return plain(*args, **kwargs)

    partition_parameters.dist.broadcast = broadcast
    if how == "whole":
        model = load_model(path, dtype)
        deepspeed.zero.Init(module=model, config_dict_or_path=_settings(dtype))
    else:
        model = load_sharded(path, dtype)
    ctypes.CDLL(None).malloc_trim(0)  # what was freed but not given back is not held
    held = own_memory()
    weight = model.get_input_embeddings().weight
    state = hashlib.sha256()
    for parameter in model.parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            state.update(parameter.data.contiguous().view(torch.uint8).numpy().tobytes())
    found = {
        "peak": (max(seen) - before) / MIB,
        "held": (held - before) / MIB,
        "share": sum(p.ds_tensor.numel() * p.ds_tensor.itemsize for p in model.parameters()) / MIB,
        "embedding": [weight.numel(), weight.ds_tensor.numel(), weight.ds_shape.numel()],
        "tied": weight is model.get_output_embeddings().weight,
        "buffers": {n: [str(b.dtype), b.double().sum().item()] for n, b in model.named_buffers()},
        "digest": state.hexdigest(),
    }
    print("FOUND " + json.dumps(found), flush=True)
    torch.distributed.barrier()
    os._exit(0)  # Python's own end is now and then too quick for a thread of gloo


if __name__ == "__main__":
    main(*sys.argv[1:])
