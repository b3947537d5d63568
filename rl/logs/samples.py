"""The responses that a run keeps for reading: samples.parquet."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolpo.model.files import DamagedError
from evolpo.rl.logs.files import replacing

if TYPE_CHECKING:
    import pyarrow

SAMPLES_FILE = "samples.parquet"
READ_AT_ONCE = 100
"""Rows of `samples.parquet` that lie together: who wants one of them reads them all."""


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One response kept for reading: a row of `samples.parquet`."""

    step: int
    """1-based number of the step the response was trained on."""
    prompt_id: str
    difficulty: str
    prompt: str
    """The problem as the user would write it."""
    answer: str | None
    """The reference answer, if the data has one."""
    response: str
    reward: float | None
    """None where the response could not be scored."""
    advantage: float
    breakdown: dict[str, float | None]
    """Value of each reward component by name."""
    sentences: list[tuple[str, int, float | None]]
    """Of each unit in order: its text, its length in tokens, its importance ratio (None if not trained on)."""
    tokens: int
    """Length of the response in tokens."""
    finish_reason: str
    logprob_gap: float
    """Mean absolute difference between the log-probabilities of trainer and rollout engine, in nats."""


class SampleTable:
    """The responses kept for reading, in `samples.parquet`.

    Args:
        run: folder of the run; must exist.
        resume_step: last finished step of the checkpoint the run goes on from; rows of later steps are dropped. None
            starts an empty table, which replaces an older one at the first `save`.
    """

    def __init__(self, run: Path, resume_step: int | None = None) -> None:
        self._path = run / SAMPLES_FILE
        self._new: list[SampleRow] = []
        self._saved = _schema().empty_table()
        if resume_step is not None and self._path.exists():
            import pyarrow.compute

            self._saved = _whole_table(self._path).filter(pyarrow.compute.field("step") <= resume_step)

    def add(self, rows: Sequence[SampleRow]) -> None:
        """Add rows; they are in memory until `save`."""
        self._new.extend(rows)

    def save(self) -> None:
        """Write all rows, replacing the file as a whole."""
        import pyarrow
        import pyarrow.parquet

        fresh = pyarrow.Table.from_pylist([_to_arrow(row) for row in self._new], schema=_schema())
        table = pyarrow.concat_tables([self._saved, fresh])
        with replacing(self._path) as temporary:
            pyarrow.parquet.write_table(
                table, temporary, compression="zstd", row_group_size=READ_AT_ONCE, write_page_checksum=True
            )
        self._saved, self._new = table, []


def check_samples(path: Path) -> None:
    """Raise DamagedError if a `samples.parquet` is there and cannot be read as a whole."""
    if path.exists():
        _whole_table(path)


def _whole_table(path: Path) -> pyarrow.Table:
    """All rows, their checksums compared."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path, schema=_schema(), page_checksum_verification=True)
    except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
        raise DamagedError(path, f"is damaged ({str(error).splitlines()[0][:200]})") from None


def read_samples(path: Path, places: Sequence[int] | None = None, most_sentences: int | None = None) -> list[SampleRow]:
    """Read a `samples.parquet` in the order the rows were added; a missing file has no rows.

    Args:
        path: the file.
        places: rows to read, counted from 0, ascending and none twice; parts of the file without them are not read.
            None reads all rows.
        most_sentences: of each row no more than its first ones; None reads all.
    """
    if not path.exists():
        return []
    import pyarrow
    import pyarrow.compute
    import pyarrow.dataset

    [fragment] = pyarrow.dataset.dataset(path, schema=_schema()).get_fragments()
    if places is None:
        table = fragment.to_table(schema=_schema())
    else:
        sizes = [group.num_rows for group in fragment.row_groups]
        begins = list(accumulate(sizes, initial=0))
        groups = [bisect_right(begins, place) - 1 for place in places]
        wanted = sorted(set(groups))
        moved = dict(zip(wanted, accumulate((sizes[group] for group in wanted), initial=0), strict=False))
        table = fragment.subset(row_group_ids=wanted).to_table(schema=_schema())
        within = [place - begins[group] + moved[group] for place, group in zip(places, groups, strict=True)]
        table = table.take(pyarrow.array(within, pyarrow.int64()))
    if most_sentences is not None:
        column = table.schema.get_field_index("sentences")
        first = pyarrow.compute.list_slice(table.column(column), 0, most_sentences)
        table = table.set_column(column, "sentences", first)
    rows = table.to_pylist()
    for row in rows:
        row["breakdown"] = dict(row["breakdown"])
        row["sentences"] = [(unit["text"], unit["tokens"], unit["ratio"]) for unit in row["sentences"]]
    return [SampleRow(**row) for row in rows]


def read_sample_columns(path: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """Some columns of a `samples.parquet`, of all rows; a missing file has no rows."""
    if not path.exists():
        return {name: [] for name in names}
    import pyarrow.parquet

    columns: dict[str, list[Any]] = pyarrow.parquet.read_table(path, columns=list(names)).to_pydict()
    return columns


def _schema() -> pyarrow.Schema:
    import pyarrow as pa

    sentence = pa.struct({"text": pa.string(), "tokens": pa.int32(), "ratio": pa.float64()})
    return pa.schema(
        {
            "step": pa.int64(),
            "prompt_id": pa.string(),
            "difficulty": pa.string(),
            "prompt": pa.string(),
            "answer": pa.string(),
            "response": pa.string(),
            "reward": pa.float64(),
            "advantage": pa.float64(),
            "breakdown": pa.map_(pa.string(), pa.float64()),
            "sentences": pa.list_(sentence),
            "tokens": pa.int32(),
            "finish_reason": pa.string(),
            "logprob_gap": pa.float64(),
        }
    )


def _to_arrow(row: SampleRow) -> dict[str, Any]:
    sentences = [{"text": text, "tokens": tokens, "ratio": ratio} for text, tokens, ratio in row.sentences]
    return asdict(row) | {"breakdown": list(row.breakdown.items()), "sentences": sentences}
