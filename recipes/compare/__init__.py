"""`evolpo compare`: algorithms on the same data and seeds.

`plan.py` says which runs, `state.py` where they stand, `compare.py` runs them; the other files are the report.
"""
