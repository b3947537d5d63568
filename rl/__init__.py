"""The algorithm: data, segmentation, advantages, losses, log-probabilities, batching, trainer, checkpoints."""
