"""From files, data sets of a hub and generators to problems: read, understood, split and put into the chat template.

`files.py` reads, `presets.py` knows the shapes that people have, `chat.py` makes tokens of messages.
"""
