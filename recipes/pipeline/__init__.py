"""`evolpo pipeline`: commands one after the other, as stages that resume.

`stages.py` knows each command as a stage, `check.py` checks all before the first one runs.
"""
