"""Reward functions written for other toolkits, unchanged.

    - use: evolpo.rewards.adapters:trl
      options: {function: "trl.rewards:accuracy_reward", conversational: true, answer_column: solution}

`function` is `module:attribute` of a function, a partial, a callable object or a class of such objects; options that an
adapter does not name are passed to it as they stand, before any column of the data with the same name. An adapter
passes what the function's signature names, and refuses on loading what it cannot call. What these toolkits turn into a
reward of 0, an exception above all, is an `infra_error` here.
"""

from evolpo.rewards.adapters.environments import verifiers
from evolpo.rewards.adapters.groups import openrlhf, trl
from evolpo.rewards.adapters.single import nemo_rl, rllm, skyrl, slime, verl

__all__ = ["nemo_rl", "openrlhf", "rllm", "skyrl", "slime", "trl", "verifiers", "verl"]
