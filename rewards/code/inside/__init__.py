"""Files that run inside the sandbox alone: tests that are scripts in one process, the program in another.

`checker.py` has the tests, `server.py` the program; `wire.py` is what passes between them.
"""
