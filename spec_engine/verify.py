"""Accept the drafted tokens that the target itself chose.

Job: `accept` walks down the tree as long as the target's choice at a node is one of its children.
Non-job: choosing tokens (`sampling.choose`), cutting at a stop (the engine).

One rule serves greedy and sampled decoding. At every node one token is drawn from the target's own distribution there;
a drafted child is accepted exactly when it is that token. Each new token is therefore a draw from the target,
independent of what was drafted, so the output distribution is the target's. For a tree whose nodes are chosen without
randomness no rule accepts more: the chance that some child is accepted equals the target's probability of all children
together (SpecExtend, arXiv 2505.20776, and EAGLE-2, arXiv 2406.16858, verify their trees to the same effect).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from spec_engine.events import FinishReason
from spec_engine.tree import DraftTree


@dataclass(frozen=True, slots=True)
class Accepted:
    """What one target pass brought.

    `path` are the nodes whose tokens stay in the cache, root first. `token_ids` are the new tokens: those of
    ``path[1:]`` and, last, the one that the target adds itself, so both have the same length.
    """

    path: tuple[int, ...]
    token_ids: tuple[int, ...]
    stop: FinishReason | None = None

    @property
    def bonus(self) -> int:
        """The newest token, which no cache holds yet: the root of the next tree."""
        return self.token_ids[-1]

    @property
    def num_drafted(self) -> int:
        """How many of the new tokens were drafted."""
        return len(self.path) - 1

    def cut(self, num_tokens: int, stop: FinishReason) -> "Accepted":
        """The first `num_tokens` new tokens. The last one kept counts as the target's own, as it always does."""
        return replace(self, path=self.path[:num_tokens], token_ids=self.token_ids[:num_tokens], stop=stop)


def accept(tree: DraftTree, chosen: Sequence[int]) -> Accepted:
    """Follow `chosen`, the target's token after each node, from the root as deep as the draft has it.

    One walk over the nodes is enough, as each stands behind its parent.
    """
    path = [0]
    for node in range(1, len(tree)):
        if tree.parents[node] == path[-1] and tree.token_ids[node] == chosen[path[-1]]:
            path.append(node)
    return Accepted(tuple(path), tuple(chosen[node] for node in path))
