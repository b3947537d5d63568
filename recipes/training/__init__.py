"""What the loop of `recipes/train.py` calls: its parts put together, a rollout, evaluation, metrics, the summary.

Read the loop first; here is what it leaves out.
"""
