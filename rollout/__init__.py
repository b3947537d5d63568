"""Prompts in, groups of responses out: the prompt stream and the sampling engine."""
