"""From what a user writes, on the command line and in a file of fields, to what hydra composes.

`fields.py` knows the fields of a command, `kinds.py` what they hold, `grammar.py` hydra's grammar of values, `file.py`
reads `--config FILE`, `words.py` puts the words of a call together.
"""
