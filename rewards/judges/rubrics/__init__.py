"""Rubrics that come with evolpo, one YAML file each."""
