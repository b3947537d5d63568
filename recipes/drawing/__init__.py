"""Charts as SVG and pages from templates, for every report.

What is drawn is up to the rooms that use it.
"""
