"""The reward for code: test cases in several languages, run in a sandbox.

Code that a model wrote runs in `sandbox.py` and nowhere else.
"""
