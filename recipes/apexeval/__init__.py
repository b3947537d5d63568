"""`evolpo apexeval`: which checkpoint to start reinforcement learning from, by pass@k with a tolerant verifier.

`apexeval.py` samples and judges, `rows.py` ranks.
"""
