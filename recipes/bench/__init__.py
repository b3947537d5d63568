"""`evolpo bench NAME`: one file a benchmark.

`shared.py` has what they share.
"""
