"""evolpo: reinforcement-learning post-training of language models, by sentences."""

__version__ = "0.1.0"


class InputError(ValueError):
    """A mistake in what the user gave: a configuration field, a data file, a plugin name.

    The message is one line that names the field in full and says how to mend it. The command line prints it
    without a traceback and exits with code 2.
    """
