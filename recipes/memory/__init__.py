"""What a run takes of the memory of a card or a machine, told before anything is loaded.

`evolpo plan` prints it for a cluster, `evolpo train` holds it against what is there.
"""
