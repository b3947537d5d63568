"""Prompts in, groups of responses out: the prompt stream and the sampling engine.

`prompts.py` gives them in an order that can be resumed, `vllm_engine.py` samples, `fleet.py` with several engines.
"""
