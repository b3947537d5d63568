"""`evolpo plan`: what a model needs on a cluster, on paper.

Nothing is loaded.
"""
