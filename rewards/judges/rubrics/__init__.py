"""Rubrics that come with evolpo, one YAML file each.

`rubric.py` in the folder above reads them, and says what a rubric of one's own looks like.
"""
