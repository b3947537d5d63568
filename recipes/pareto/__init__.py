"""`evolpo pareto`: accuracy against tokens, from runs that are finished.

`runs.py` reads, `study.py` and `statistics.py` compute, `page.py` shows.
"""
