"""Rewards: samples in, scores out; plugins by name; weights and gates. An error never becomes a 0."""

from evolpo.rewards.base import (
    FunctionReward,
    Reward,
    Sample,
    Scope,
    Score,
    Status,
    group_reward,
    sample_reward,
)
from evolpo.rewards.registry import available_rewards, load_reward
from evolpo.rewards.stack import RewardError, RewardsConfig, RewardSpec, RewardStack

__all__ = [
    "FunctionReward",
    "Reward",
    "RewardError",
    "RewardSpec",
    "RewardStack",
    "RewardsConfig",
    "Sample",
    "Scope",
    "Score",
    "Status",
    "available_rewards",
    "group_reward",
    "load_reward",
    "sample_reward",
]
