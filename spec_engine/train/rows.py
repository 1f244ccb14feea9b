"""One training row under construction, and the passages that stand in it.

Job: keep token ids, loss weights and alignments in step. Non-job: what is asked (objectives.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from spec_engine.train.corpus import NUM_MARKS, Passage


@dataclass(slots=True)
class Row:
    """One training row under construction. `weight[t]` belongs to the prediction of `ids[t]`."""

    ids: list[int] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    source: list[int] = field(default_factory=list)  # [t]: where ids[t] was copied from, or -1
    match: list[int] = field(default_factory=list)  # [t]: where the word of ids[t] stands in the document, or -1
    mark: list[int] = field(default_factory=list)  # [t]: where the mark of the passage of ids[t] stands, or -1
    gather: list[tuple[int, int]] = field(
        default_factory=list
    )  # (beginning of an answer, matched word of its question)

    def add(self, ids: Sequence[int], weight: float = 0.0, source: Sequence[int] = ()) -> None:
        """Append tokens of one weight; `source` as long as `ids`, or empty."""
        self.ids += ids
        self.weight += [weight] * len(ids)
        self.source += source or [-1] * len(ids)
        self.match += [-1] * len(ids)
        self.mark += [-1] * len(ids)

    def set_marks(self, start: int, first_mark: int) -> None:
        """Note for the tokens from `start` on which mark they belong to: the last one at or before them."""
        last = -1
        for position in range(start, len(self.ids)):
            if first_mark <= self.ids[position] < first_mark + NUM_MARKS:
                last = position
            self.mark[position] = last


@dataclass(frozen=True, slots=True)
class Placed:
    """A passage in a row: its mark stands at `start`, its tokens follow up to `stop`."""

    passage: Passage
    ids: list[int]
    start: int
    stop: int

    def body(self, first: int = -1) -> tuple[list[int], list[int]]:
        """Ids without trailing white space from token `first` on (-1: with the mark), and their positions."""
        stop = self.start + 1 + self.passage.num_body_ids
        return self.ids[first + 1 : self.passage.num_body_ids + 1], list(range(self.start + 1 + first, stop))
