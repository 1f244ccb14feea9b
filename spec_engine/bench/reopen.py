"""How much sooner the first token comes when a document was read before and is restored from disk.

Job: read texts, keep them, forget them, ask again; times of both, and whether the answers are the same.
Non-job: files (`cache.store`), other speeds (`run`).
"""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from spec_engine.bench.tasks import as_document, cut_to_tokens
from spec_engine.cache.store import PrefixStore
from spec_engine.chat.session import Session
from spec_engine.engine import Engine
from spec_engine.events import Finished

_QUESTION = "What is this document about?"
_NUM_TOKENS = 32


@dataclass(frozen=True, slots=True)
class ReopenRow:
    """Texts of one length, in tokens. Seconds to the first token, medians; megabytes of a kept text."""

    length: int
    num_texts: int
    read_s: float
    restored_s: float
    kept_mb: float
    num_identical: int

    @property
    def gain(self) -> float:
        """How many times sooner."""
        return self.read_s / self.restored_s


def measure_reopening(
    engine: Engine,
    store: PrefixStore,
    texts: Sequence[str],
    lengths: Sequence[int],
    num_texts: int,
    tell: Callable[[str], None],
) -> list[ReopenRow]:
    """Read, keep and reopen `num_texts` texts of each length; texts shorter than a length are left out there."""
    engine.keeping_prefixes(store)
    rows = []
    for length in lengths:
        parts = [cut_to_tokens(text, length, lambda words: len(engine.tokenizer.encode(words))) for text in texts]
        pairs, kept = [], []
        for part in [part for part in parts if part is not None][:num_texts]:
            session, before = _session(engine, part), store.num_bytes
            _forget(engine)
            read = _ask(session)
            session.keep_document()
            kept.append(store.num_bytes - before)
            _forget(engine)
            pairs.append((read, _ask(_session(engine, part))))
            engine.forget_prefix(as_document(part).sha256)
        if pairs:
            row = ReopenRow(
                length,
                len(pairs),
                statistics.median(read.metrics.time_to_first_token_s for read, _ in pairs),
                statistics.median(again.metrics.time_to_first_token_s for _, again in pairs),
                statistics.median(kept) / 1e6,
                sum(read.token_ids == again.token_ids for read, again in pairs),
            )
            rows.append(row)
            tell(f"{length}: first token after {row.read_s:.2f} s, restored {row.restored_s:.2f} s, {row.gain:.0f} x")
    return rows


def _session(engine: Engine, text: str) -> Session:
    return Session(engine, as_document(text), instruction=engine.preset.instruction if engine.preset else "")


def _ask(session: Session) -> Finished:
    return next(event for event in session.ask(_QUESTION, max_tokens=_NUM_TOKENS) if isinstance(event, Finished))


def _forget(engine: Engine) -> None:
    """Leave target and drafter without any text, as after a start."""
    engine.target.reset()
    for memory in engine.drafter.memories:
        memory.room(1)


def reopen_table(rows: Sequence[ReopenRow]) -> str:
    """As Markdown."""
    lines = ["| context | texts | read | restored | sooner | on disk | same answer |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {row.length:,} tokens | {row.num_texts} | {row.read_s:.2f} s | {row.restored_s:.2f} s | {row.gain:.0f} x | "
        f"{row.kept_mb:.0f} MB | {row.num_identical} of {row.num_texts} |"
        for row in rows
    ]
    return "\n".join(lines)


def reopen_json(rows: Sequence[ReopenRow]) -> str:
    """As JSON."""
    return json.dumps([asdict(row) for row in rows], indent=1)
