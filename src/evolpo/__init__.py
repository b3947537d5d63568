"""evolpo: reinforcement-learning post-training of language models, by sentences."""

import os

__version__ = "0.1.0"

# Left alone, MKL sums in an order that depends on where memory lies, and every thread that allocates moves it. It reads
# this before its first product; processes that are started from here inherit it. AUTO is the processor's best code.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


class InputError(ValueError):
    """A mistake in what the user gave: a configuration field, a data file, a plugin name.

    The message is one line that names the field in full and says how to mend it. The command line prints it
    without a traceback and exits with code 2.
    """
