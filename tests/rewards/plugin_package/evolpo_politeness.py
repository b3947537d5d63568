"""A reward in a package of its own."""

from evolpo.rewards import Sample, sample_reward


@sample_reward
def polite(sample: Sample, *, word: str = "please") -> float:
    """1 if the response says the word."""
    return float(word in sample.text.lower())
