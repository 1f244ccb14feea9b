"""From logits to one chosen token per node, reproducibly.

Job: the warpers (repetition penalty, temperature, top-k, top-p, min-p; order and semantics of transformers' own) and
the draw by the Gumbel-max trick: argmax of log p plus Gumbel noise is an exact sample of p.
Non-job: comparing the chosen tokens with a draft.

The noise is the same for the same seed, position and token (gumbel.py), so an answer is too, with and without
speculation; siblings of a tree share the draw that decides between them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spec_engine.cache.slots import on_device
from spec_engine.errors import RequestError
from spec_engine.gumbel import GumbelNoise
from spec_engine.tree import DraftTree

_NUCLEUS, _LARGE_NUCLEUS = 256, 8192  # likeliest tokens among which the top p are looked for, before all are sorted
_BLOCK, _MANY_COLUMNS = 64, 65536  # columns that are looked at together, where there are so many
_SHARPNESS, _NOISE_SHARE = 1.4, 0.55  # weights of a draft's logits and of the shared noise (docs/results/noise.md)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a token is chosen. `temperature` 0 is greedy; 0 for `top_k`, 1 for `top_p`, 0 for `min_p`, 1 for
    `repetition_penalty` switch that warper off. Raises `RequestError` for a value outside its range."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        ranges = (
            ("temperature", self.temperature, _is_temperature(self.temperature), "0, or at least 0.001"),
            ("top_k", self.top_k, self.top_k >= 0, "at least 0"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", self.min_p, 0 <= self.min_p <= 1, "between 0 and 1"),
            ("repetition_penalty", self.repetition_penalty, 0 < self.repetition_penalty < math.inf, "above 0"),
        )
        for name, value, is_valid, rule in ranges:
            if not is_valid:
                raise RequestError(f"{name} is {value}, it must be {rule}. Choose another value.")


def _is_temperature(value: float) -> bool:
    """Scores divided by less than a thousandth leave the range of their numbers."""
    return value == 0 or 1e-3 <= value < math.inf


def choose(
    logits: Tensor,
    params: SamplingParams,
    positions: Sequence[int],
    histories: Tensor | None = None,
    noise: GumbelNoise | None = None,
) -> tuple[int, ...]:
    """One token id for each row of `logits` [N, V].

    `positions[i]` is the index in the whole sequence of the token that row i decides. `histories` bool [N, V] marks the
    tokens that come before it (`seen_tokens`); only a repetition penalty reads it. `noise` lets the vectors of one
    answer be kept; it must have been made from `params.seed`. Greedy ties fall to the lowest id.
    """
    if params.temperature == 0:
        return tuple(_best(_penalised(logits, params, histories)))
    noise = noise or GumbelNoise(params.seed)
    if params.top_k > _NUCLEUS or not (params.top_k or params.top_p < 1):
        return _drawn(logits, params, positions, histories, noise)
    scores, columns, is_open = _likeliest(logits, params, histories)
    best = (scores + noise.among(positions, columns)).argmax(dim=-1, keepdim=True)
    chosen: list[int] = columns.gather(1, best)[:, 0].masked_fill(is_open, -1).tolist()
    if rows := [row for row, token_id in enumerate(chosen) if token_id < 0]:
        given = None if histories is None else histories[rows]
        further = _drawn(logits[rows], params, [positions[row] for row in rows], given, noise)
        for row, token_id in zip(rows, further, strict=True):
            chosen[row] = token_id
    return tuple(chosen)


def _drawn(
    logits: Tensor, params: SamplingParams, positions: Sequence[int], histories: Tensor | None, noise: GumbelNoise
) -> tuple[int, ...]:
    """`choose` of answers that are drawn, where all of the vocabulary is looked at."""
    scores = warp(logits, params, histories)
    noises = torch.stack([noise.at(position, scores.shape[1], scores.device) for position in positions])
    return tuple(_best(scores + noises))


def _likeliest(logits: Tensor, params: SamplingParams, histories: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """What `warp` leaves, where that are few: scores float32 [N, k], -inf for what it excludes, and their columns int64
    [N, k]; bool [N], the rows in which it may leave more. All else need not be warped, nor noise be drawn for it."""
    scores = _penalised(logits, params, histories)
    num_looked_at = min(params.top_k or _NUCLEUS, scores.shape[1])
    found, columns = _top(scores, min(num_looked_at + 1, scores.shape[1]))  # one more, which may be as likely
    found = found / params.temperature
    is_open = found[:, -1] == found[:, num_looked_at - 1] if found.shape[1] > num_looked_at else None
    found, columns = found[:, :num_looked_at], columns[:, :num_looked_at]
    if params.top_p < 1:
        probs = found.softmax(-1) if params.top_k else _probs_of(found, columns, scores, params.temperature)
        found, reached = _nucleus(found, probs, params.top_p)
        if not params.top_k and is_open is not None:
            is_open = (reached < params.top_p) | (found[:, -1] > -torch.inf)
    if is_open is None:
        is_open = torch.zeros(len(found), dtype=torch.bool, device=found.device)
    return _keep_min_p(found, params.min_p), columns, is_open


class DraftRanking:
    """How likely each token is what the target will choose, from a draft's logits, in one answer.

    When the answer is sampled, the noise that will decide is known, so the draft ranks by its own logits plus that
    noise: where it agrees with the target it also agrees on the draw. The noise counts half, because the draft knows
    the target's logits only roughly: with all of it, what it takes for likely is drowned. Without `shares_noise` it
    ranks by its own probabilities. The repetition penalty is left out; it would need a history for each row.
    `token_ids` are those of `GumbelNoise`.
    """

    def __init__(self, params: SamplingParams, *, shares_noise: bool = True, token_ids: Tensor | None = None) -> None:
        self._recipe = DraftRecipe.of(params)
        self._noise = GumbelNoise(params.seed, token_ids) if shares_noise else None

    def forget(self, position: int) -> None:
        """Nothing before this position will be asked for again."""
        if self._noise is not None:
            self._noise.forget(position)

    @property
    def recipe(self) -> "DraftRecipe":
        """What is done with logits."""
        return self._recipe

    def noise_at(self, position: int, num_columns: int, device: torch.device) -> Tensor | None:
        """float32 [V] of the shared noise for the token at `position` of the whole sequence; None where none counts."""
        if self._noise is None or self._recipe.is_greedy:
            return None
        return self._noise.at(position, num_columns, device)

    def log_probs(self, logits: Tensor, position: int) -> Tensor:
        """float32 [n, V] for the token at `position` of the whole sequence; greedy answers at temperature 1."""
        return self.weights(logits, position).float().log_softmax(dim=-1)

    def weights(self, logits: Tensor, position: int) -> Tensor:
        """[n, V] that `log_probs` is the log-softmax of; float32, or of a greedy answer the logits themselves."""
        return self._recipe.weights(logits, self.noise_at(position, logits.shape[1], logits.device))


@dataclass(frozen=True, slots=True)
class DraftRecipe:
    """How a draft's logits are weighed: the same for all answers that are drawn alike, whatever their seed."""

    params: SamplingParams

    @classmethod
    def of(cls, params: SamplingParams) -> "DraftRecipe":
        """Greedy answers are ranked at temperature 1, whatever else is set."""
        return cls(replace(params, seed=0, repetition_penalty=1.0) if params.temperature > 0 else SamplingParams())

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.params.temperature == 0

    def weights(self, logits: Tensor, noise: Tensor | None) -> Tensor:
        """[n, V] whose log-softmax tokens are ranked by, from logits, and from noise [V] where it is shared. Device
        work alone: of a nucleus the likeliest tokens, more than any level of a tree has."""
        if self.is_greedy:
            return logits
        scores, _ = _warped(logits, self.params, None, _NUCLEUS)
        if noise is not None:
            scores = _SHARPNESS * scores + _NOISE_SHARE * noise
        return scores


def warp(logits: Tensor, params: SamplingParams, histories: Tensor | None = None) -> Tensor:
    """float32 logits [N, V] of the distribution that is drawn from; excluded tokens are -inf.

    At temperature 0 only the repetition penalty applies. Of equal scores at the edge of the top k or the top p all
    stay, so that what stays depends on no order.
    """
    scores, is_open = _warped(logits, params, histories, _NUCLEUS)
    if is_open is not None:
        _look_further(scores, is_open, logits, params, histories)
    return scores


def _look_further(
    scores: Tensor, is_open: Tensor, logits: Tensor, params: SamplingParams, histories: Tensor | None
) -> None:
    """Write the rows of `scores` in which more than `_NUCLEUS` tokens have to be looked at for the top p."""
    rows = is_open.nonzero()[:, 0]
    for num in (_LARGE_NUCLEUS, logits.shape[1]):
        if not len(rows):
            return
        given = None if histories is None else histories[rows]
        scores[rows], still_open = _warped(logits[rows], params, given, num)
        if still_open is None:
            return
        rows = rows[still_open]


def _warped(
    logits: Tensor, params: SamplingParams, histories: Tensor | None, num_looked_at: int
) -> tuple[Tensor, Tensor | None]:
    """`warp`, where the top p are looked for among so many of the likeliest tokens, without waiting for a device; and
    bool [N], the rows in which that was not enough, None where it always is."""
    scores, is_open = _penalised(logits, params, histories), None
    if params.temperature == 0:
        return scores, None
    scores = scores / params.temperature
    if params.top_k > 0:
        kth = scores.topk(min(params.top_k, scores.shape[-1]), dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < kth, -torch.inf)
    if params.top_p < 1:
        scores, is_open = _keep_top_p(scores, params.top_p, min(num_looked_at, scores.shape[1]))
    return _keep_min_p(scores, params.min_p), is_open


def _penalised(logits: Tensor, params: SamplingParams, histories: Tensor | None) -> Tensor:
    """float32 logits after the repetition penalty."""
    scores, penalty = logits.float(), params.repetition_penalty
    if penalty == 1 or histories is None:
        return scores
    return torch.where(histories, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def _keep_min_p(scores: Tensor, min_p: float) -> Tensor:
    """Scores, -inf for tokens less likely than `min_p` times the likeliest."""
    if min_p == 0:
        return scores
    probs = scores.softmax(dim=-1)
    return scores.masked_fill(probs < min_p * probs.amax(dim=-1, keepdim=True), -torch.inf)


def seen_tokens(committed: Tensor, tree: DraftTree) -> Tensor:
    """bool [N, V]: for each node the tokens of `committed` (bool [V]) and of its path, the node itself included."""
    seen = committed.repeat(len(tree), 1)
    nodes, ancestors = tree.ancestor_mask().nonzero(as_tuple=True)
    places = nodes * seen.shape[1] + torch.tensor(tree.token_ids)[ancestors]
    seen.view(-1).index_fill_(0, on_device(places, seen.device), True)
    return seen


def _best(scores: Tensor) -> list[int]:
    """Column of the largest score of each row, the first among equals. On a CPU numpy's, which takes a fifth of the
    time of torch's or less (32 rows of 4,096 scores 9 µs for 69, of 151,936 0.3 ms for 1.4)."""
    best = torch.from_numpy(scores.detach().numpy().argmax(-1)) if scores.device.type == "cpu" else scores.argmax(-1)
    columns: list[int] = best.tolist()
    return columns


def _probs_of(found: Tensor, columns: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """float32 [N, k] probabilities of the columns that were `found`, the likeliest ones, among all `scores` [N, V].
    Large vocabularies are gone through row by row on a CPU, because memory for all rows at once is taken anew each
    time: 32 rows of 151,936 scores take 3 ms for 15."""
    if scores.device.type != "cpu" or scores.shape[1] < _MANY_COLUMNS:
        return (scores / temperature).softmax(dim=-1).gather(1, columns)
    most = scores.amax(dim=-1, keepdim=True)
    sums = [((row - top) / temperature).exp_().sum() for row, top in zip(scores, most, strict=True)]
    return (found - found[:, :1]).exp() / torch.stack(sums)[:, None]


def _top(scores: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The `num` largest scores of each row, falling, and their columns. On a CPU and of a large vocabulary, only the
    blocks with the largest scores are looked through: 21 of 151,936 columns take 80 µs for 440."""
    num_rows, num_columns = scores.shape
    num_blocks = num_columns // _BLOCK
    if scores.device.type != "cpu" or num_columns < _MANY_COLUMNS or num_blocks < num:
        found = scores.topk(num, dim=-1)
        return found.values, found.indices
    blocks = scores[:, : num_blocks * _BLOCK].view(num_rows, num_blocks, _BLOCK)
    best = blocks.amax(dim=-1).topk(num, dim=-1).indices[:, :, None]
    within = blocks.gather(1, best.expand(-1, -1, _BLOCK)).flatten(1)
    columns = (best * _BLOCK + torch.arange(_BLOCK)).flatten(1)
    rest = torch.arange(num_blocks * _BLOCK, num_columns).expand(num_rows, -1)
    found = torch.cat((within, scores[:, num_blocks * _BLOCK :]), dim=1).topk(num, dim=-1)
    return found.values, torch.cat((columns, rest), dim=1).gather(1, found.indices)


def _keep_top_p(scores: Tensor, top_p: float, num_looked_at: int) -> tuple[Tensor, Tensor | None]:
    """The likeliest tokens of each row until their probabilities reach `top_p`, the one that reaches it included; and
    in which rows so many of the likeliest do not, None where it is all of them.

    To sort a whole vocabulary takes as long as the rest of a step or longer; the likeliest tokens nearly always do.
    """
    likeliest, columns = scores.topk(num_looked_at, dim=-1)
    kept, reached = _nucleus(likeliest, scores.softmax(dim=-1).gather(1, columns), top_p)
    least = kept.masked_fill(kept == -torch.inf, torch.inf).amin(dim=-1, keepdim=True)
    is_open = reached < top_p if num_looked_at < scores.shape[1] else None
    return scores.masked_fill(scores < least, -torch.inf), is_open


def _nucleus(likeliest: Tensor, probs: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Scores [N, k] in descending order, -inf for those beyond the top p by their probabilities; float64 [N], what all
    of these reach."""
    probs = probs.double()  # so that sums do not depend on the rows beside
    reached = probs.cumsum(dim=-1)
    is_kept = reached - probs < top_p
    is_kept[:, 0] = True
    least = likeliest.masked_fill(~is_kept, torch.inf).amin(dim=-1, keepdim=True)
    return likeliest.masked_fill(likeliest < least, -torch.inf), reached[:, -1]
