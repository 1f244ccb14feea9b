"""Plain decoding of this engine against transformers' `generate`, behind a context that was filled, not read.

Job: seconds a token of both behind the same random keys and values, in turn, on one model.
Non-job: answers to questions (`run`), the machine's limit (`limit`).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter

import torch

from spec_engine.bench.limit import LimitRow, fill
from spec_engine.bench.peers import PeerModel, continue_from
from spec_engine.model.capture import wait
from spec_engine.model.target import NO_TAPS, Target
from spec_engine.tree import DraftTree

_ROOT = 1  # the token that is continued
_UNTIMED = 5  # our first tokens: passes are captured at their third


@dataclass(frozen=True, slots=True)
class AgainstRow:
    """Seconds a token behind `length` tokens, and how many of the tokens were the same, from the first on."""

    length: int
    num_tokens: int
    ours_s: float
    theirs_s: float
    num_same: int
    compiled_s: float | None = None  # theirs with a static cache and a compiled step; None where that was not run

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.theirs_s / self.ours_s


def measure_against(
    target: Target,
    peer: PeerModel,
    lengths: tuple[Sequence[int], Sequence[int]],
    num_tokens: int,
    tell: Callable[[str], None],
) -> Iterator[AgainstRow]:
    """Both decode `num_tokens` tokens greedily behind each of the first `lengths`, after a few that are not timed;
    transformers, on the same weights in `peer`, behind the second ones also with a compiled step.

    In narrow types a likeliest token may change with the order of a sum, so the texts may part. The target forgets its
    text.
    """
    for length in lengths[0]:
        fill(target, length)
        decode(target, _UNTIMED)
        target.truncate(length)
        ours_s, ours = decode(target, num_tokens)
        target.truncate(length)
        rows = target.rows(target.token_ids)
        assert rows is not None, "what was filled in is there"
        theirs_s, theirs = continue_from(peer, rows, _ROOT, num_tokens)
        pairs = zip(ours, theirs, strict=False)
        num_same = next((index for index, (one, other) in enumerate(pairs) if one != other), len(theirs))
        compiled_s = _compiled_seconds(target, peer, rows, num_tokens, tell) if length in lengths[1] else None
        row = AgainstRow(length, num_tokens, ours_s, theirs_s, num_same, compiled_s)
        tell(f"{length:,} tokens: {1 / ours_s:.1f} tokens/s, transformers {1 / theirs_s:.1f}, {row.ratio:.1f} x")
        yield row
    target.reset()


def _compiled_seconds(
    target: Target,
    peer: PeerModel,
    rows: Mapping[str, torch.Tensor],
    num_tokens: int,
    tell: Callable[[str], None],
) -> float | None:
    """On a GPU, a model without windows: seconds a token of `generate` with a static cache, which it compiles."""
    if target.device.type != "cuda" or any(target.runner.layer_windows):
        return None
    try:
        return continue_from(peer, rows, _ROOT, num_tokens, is_static=True)[0]
    except RuntimeError as error:
        tell(f"transformers' compiled step was not measured: {str(error).splitlines()[0]}")
        return None


def decode(target: Target, num_tokens: int) -> tuple[float, list[int]]:
    """Seconds a token of greedy plain decoding, and the tokens."""
    found, root = list[int](), _ROOT
    wait(target.device)
    began = perf_counter()
    for _ in range(num_tokens):
        outputs = target.verify(DraftTree.root(root), NO_TAPS)
        root = int(outputs.logits[0].argmax())
        target.commit(outputs, (0,))
        found.append(root)
    return (perf_counter() - began) / num_tokens, found


def against_table(rows: Sequence[AgainstRow]) -> str:
    """As Markdown."""
    lines = [
        "| context | plain decoding | transformers `generate` | ratio | same tokens | compiled | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.length:,} tokens | {1000 * row.ours_s:.1f} ms a token | {1000 * row.theirs_s:.1f} ms a token | "
        f"{row.ratio:.1f} x | {row.num_same} of {row.num_tokens} | {_compiled(row)} |"
        for row in rows
    ]
    return "\n".join(lines)


def _compiled(row: AgainstRow) -> str:
    """The last two columns."""
    if row.compiled_s is None:
        return "not run | "
    return f"{1000 * row.compiled_s:.1f} ms a token | {row.compiled_s / row.ours_s:.1f} x"


def limit_json(
    where: str, passes: Sequence[LimitRow], plain: Sequence[AgainstRow], others: Mapping[str, object] | None = None
) -> str:
    """All measurements as JSON, with what follows from the figures written out. `where`: model, machine, versions."""
    table = {
        "where": where,
        "passes": [asdict(row) | {"limit_s": row.limit_s, "share": round(row.share, 3)} for row in passes],
        "plain": [asdict(row) | {"ratio": round(row.ratio, 3)} for row in plain],
        **(others or {}),
    }
    return json.dumps(table, indent=1)
