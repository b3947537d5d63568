"""Rewards by generative judges: what a judge is and the kinds there are, arena and rubric.

`judge.py` has the interface and the strict reading of verdicts.
"""
