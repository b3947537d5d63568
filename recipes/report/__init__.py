"""The report of a run: `report.html`, one file that opens without a network.

`report.py` is the page, the other files draw the charts of some kinds of run.
"""
