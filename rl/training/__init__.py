"""What the trainer stands on: its configuration, ranks, the DeepSpeed engine, weights by name, optimizer state.

`rl/trainer.py` is the optimizer step itself; read that first.
"""
