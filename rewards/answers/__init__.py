"""How answers are found in a response, read as people write them, and compared; nothing of an answer is executed.

`extract.py` finds the answer; `clean.py`, `numbers.py`, `units.py`, `notation.py` read it; `equal.py` compares it with
the reference, with the help of `symbolic.py` (math-verify); `gym.py` hands it to reasoning-gym's verifiers, after
`syntax.py` has parsed what they would evaluate. What computes runs in `sealed.py`.
"""
