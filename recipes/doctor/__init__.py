"""`evolpo doctor`: whether a machine can do what evolpo asks of it, found out by doing it.

A check is a function in a table; it says what it found, what that means and what to do.
"""
