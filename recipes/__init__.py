"""The command line and what it runs; nothing else imports this package.

`train.py` is the loop, `commands.py` the table of all commands; each larger command has a folder.
"""
