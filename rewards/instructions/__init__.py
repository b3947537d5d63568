"""Instructions that a program can check: the 25 kinds of IFEval, each a function of a response and its parameters.

`kinds.py` is the table of them; `rows.py` reads what a row of data asks for, and `reward.py` gives the reward.
"""
