"""Dispatch of rewards: bounded queues, deadlines, retries, cache, statistics, and processes that can be killed.

`RewardService` in `service.py` is the way in.
"""
