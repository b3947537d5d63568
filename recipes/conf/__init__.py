"""Hydra configuration files of the commands.

One file a command, and a folder a group; `experiment/COMMAND/NAME.yaml` is a whole recipe.
"""
