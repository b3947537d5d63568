"""The algorithm: data, segmentation, advantages, losses, log-probabilities, batching, trainer, checkpoints.

`losses.py` is the objective, `trainer.py` the optimizer step, `data.py` what flows between all packages.
"""
