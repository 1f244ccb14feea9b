"""Drafting by copying: what followed the last tokens when they occurred before, in the prompt or in the answer.

Job: `SuffixIndex`, an incremental index of all token sequences, and the drafter that proposes one chain from it
(prompt lookup decoding, github apoorvumang/prompt-lookup-decoding; here over the answer too, with the longest match
instead of a fixed n-gram).
Non-job: models; nothing here runs one.
"""

from collections.abc import Iterator, Sequence

from spec_engine.cache.slots import num_shared
from spec_engine.config import LookupConfig
from spec_engine.drafters.base import DrafterContext
from spec_engine.model.target import Step, Taps
from spec_engine.retrieval import Focus
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree

_READ_CHUNK = 8192  # tokens indexed between two chances to stop, a few milliseconds


class SuffixIndex:
    """Finds where the end of a text occurred before, as hash chains do in deflate.

    Each run of `min_match` tokens leads to its newest occurrence, and each occurrence to the one before. Appending and
    removing a token takes constant time; a search visits the occurrences of the last `min_match` tokens only, newest
    first, and one comparison rejects each that cannot beat the best match so far.
    """

    def __init__(self, min_match: int, max_match: int) -> None:
        self._min_match = max(min_match, 1)
        self._max_match = max(max_match, self._min_match)
        self._tokens: list[int] = []
        self._newest: dict[tuple[int, ...], int] = {}  # run of min_match tokens -> index of its last token
        self._older: list[int] = []  # for each token, where the run that it ends occurred before; -1: nowhere

    @property
    def tokens(self) -> Sequence[int]:
        """All tokens, oldest first."""
        return self._tokens

    def append(self, token_ids: Sequence[int]) -> None:
        """Add tokens at the end."""
        for token_id in token_ids:
            self._tokens.append(token_id)
            last = len(self._tokens) - 1
            if last + 1 < self._min_match:
                self._older.append(-1)
                continue
            run = tuple(self._tokens[last + 1 - self._min_match :])
            self._older.append(self._newest.get(run, -1))
            self._newest[run] = last

    def truncate(self, num_tokens: int) -> None:
        """Keep the first `num_tokens` tokens, as if the others had never come."""
        while len(self._tokens) > num_tokens:
            run = tuple(self._tokens[-self._min_match :])
            older = self._older.pop()
            if older >= 0:
                self._newest[run] = older
            elif len(run) == self._min_match:
                del self._newest[run]
            self._tokens.pop()

    def find(self, next_token_id: int) -> int | None:
        """Where the longest suffix of the tokens with `next_token_id` behind them occurred before.

        Returns the index of the last matched token, the newest one among equally long matches; None without a match of
        `min_match` tokens. Matches count as equally long from `max_match` tokens on.
        """
        tokens, num_tokens = self._tokens, len(self._tokens)
        if num_tokens + 1 < self._min_match:
            return None
        suffix = (*tokens[max(num_tokens + 1 - self._max_match, 0) :], next_token_id)
        limit = len(suffix)
        best, best_len = -1, self._min_match - 1
        candidate = self._newest.get(suffix[-self._min_match :], -1)
        while candidate >= 0 and best_len < limit:
            start = candidate - best_len
            if start >= 0 and tokens[start] == suffix[-1 - best_len]:
                match_len = self._match_len(candidate, suffix)
                if match_len > best_len:
                    best, best_len = candidate, match_len
            candidate = self._older[candidate]
        return best if best >= 0 else None

    def _match_len(self, end: int, suffix: tuple[int, ...]) -> int:
        """How many tokens up to index `end` agree with the end of `suffix`."""
        length = 0
        while length < len(suffix) and length <= end and self._tokens[end - length] == suffix[-1 - length]:
            length += 1
        return length


class LookupSession:
    """One answer's view of the shared index."""

    def __init__(self, index: SuffixIndex, num_draft: int) -> None:
        self._index = index
        self._num_draft = num_draft

    @property
    def taps(self) -> Taps:
        return Taps()

    def reusable(self, prefix: Sequence[int]) -> int:
        return len(prefix)

    def reuse(self, prefix: Sequence[int]) -> Iterator[int]:
        held = self._index.tokens
        self._index.truncate(num_shared(held, prefix))
        for start in range(len(held), len(prefix), _READ_CHUNK):
            self._index.append(prefix[start : start + _READ_CHUNK])
            yield len(held)

    def observe(self, step: Step) -> None:
        self._index.append(step.token_ids)

    def focus(self, focus: Focus) -> None:
        """Copies come from everywhere."""

    def propose(self, root: int, max_nodes: int) -> DraftTree:
        """A chain of what followed the best match. A copy that reaches the end of the text goes on in itself."""
        end = self._index.find(root)
        if end is None:
            return DraftTree.root(root)
        tokens = self._index.tokens
        chain = [root]  # follows tokens; chain[i] stands at len(tokens) + i
        for source in range(end + 1, end + 1 + min(max_nodes, self._num_draft)):
            chain.append(tokens[source] if source < len(tokens) else chain[source - len(tokens)])
        return DraftTree.chain(chain)


class LookupDrafter:
    """Copies from prompt and answer; keeps its index between the turns of a conversation."""

    name = "lookup"

    def __init__(self, config: LookupConfig, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._num_draft = config.num_draft
        self._index = SuffixIndex(config.min_match, config.max_match)

    def begin(self, sampling: SamplingParams) -> LookupSession:
        return LookupSession(self._index, self._num_draft)


def build(context: DrafterContext) -> LookupDrafter:
    """The drafter for ``draft.kind = "lookup"``."""
    return LookupDrafter(context.preset.draft.lookup, context.target.vocab_size)
