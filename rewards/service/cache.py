"""Scores by content: the same reward with the same options on the same samples is worked out once."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

from evolpo.rewards.base import FunctionReward, Reward, Sample, Score

ENTRY_BYTES = 200
"""What an entry costs besides its pickled scores: key, table slot, object headers (CPython, 64 bits)."""


class ScoreCache:
    """The scores asked for last, pickled, in at most `max_bytes` bytes; the least recently used leave first.

    What it returns is a fresh copy, so nobody can change an entry. Not safe across threads: the service uses it in its
    event loop only.
    """

    def __init__(self, max_bytes: int) -> None:
        self.bytes = 0
        """Size of all entries."""
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        # Keys contain the id of a function, which is good only as long as nothing else can get that id.
        self._kept: dict[int, object] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def key(self, reward: Reward, samples: Sequence[Sample]) -> bytes | None:
        """Digest of reward, options and all fields of the samples; None if nothing is cached or it cannot be pickled.

        Equal keys mean equal content. Equal content can have different keys (a dictionary in another order), which
        only costs a hit. Of a reward written by hand the object itself counts, as its options are its own business.
        """
        if not self._max_bytes:
            return None
        owner: object = reward.function if isinstance(reward, FunctionReward) else reward
        options = reward.options if isinstance(reward, FunctionReward) else {}
        try:
            content = pickle.dumps((id(owner), reward.name, options, list(samples)))
        except Exception:  # noqa: BLE001 - pickling runs the classes of the metadata
            return None
        self._kept[id(owner)] = owner
        return blake2b(content, digest_size=20).digest()

    def get(self, key: bytes) -> list[Score] | None:
        """The scores under this key, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        scores: list[Score] = pickle.loads(entry)
        return scores

    def put(self, key: bytes, scores: Sequence[Score]) -> None:
        """Keep the scores, unless one of them is a failure of ours, or they are too large or cannot be pickled."""
        if any(score.unscored for score in scores):
            return
        try:
            entry = pickle.dumps(list(scores))
        except Exception:  # noqa: BLE001 - pickling runs the classes of the artifacts
            return
        if len(entry) + ENTRY_BYTES > self._max_bytes:
            return
        self._drop(key)
        self._entries[key] = entry
        self.bytes += len(entry) + ENTRY_BYTES
        while self.bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= len(entry) + ENTRY_BYTES
