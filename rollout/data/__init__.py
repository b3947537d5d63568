"""From files, data sets of a hub and generators to problems: read, understood, split and put into the chat template."""
