"""Gumbel noise for drawing tokens, the same whenever it is asked for.

Job: `GumbelNoise`, by seed, position and token.
Non-job: drawing (sampling.py).

The noise of a token depends on (seed, position, token id) alone. So the same seed gives the same text with and without
speculation, whatever the drafter, the tree or the device. It is a counter-based generator: SplitMix64 (Steele, Lea,
Flood, OOPSLA 2014) in wrapping 64-bit integers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from spec_engine.cache.slots import on_device

_WORD = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15  # step between two counters
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))  # shift, then multiply
_LAST_SHIFT = 31


class GumbelNoise:
    """Standard Gumbel noise by (seed, position), one vector over the vocabulary each; make one for each answer.

    `token_ids` int64 [V] are the tokens that entries stand for, where they are not simply the first ones.

    A vector costs about 12 ns per token of the vocabulary and is kept while it may be asked for again: positions only
    move forward in an answer.
    """

    def __init__(self, seed: int, token_ids: Tensor | None = None) -> None:
        self._key = _mix(seed & _WORD)
        self._token_ids = token_ids
        self._vectors: dict[int, Tensor] = {}
        self._counters: Tensor | None = None  # int64 [V], the part that all positions share

    def at(self, position: int, vocab_size: int, device: torch.device | None = None) -> Tensor:
        """float32 [V] noise for the token at `position` of the whole sequence."""
        vector = self._vectors.get(position)
        if vector is None or vector.shape[0] != vocab_size or (device is not None and vector.device != device):
            vector = self._draw(position, vocab_size, device)
            self._vectors[position] = vector
        return vector

    def among(self, positions: Sequence[int], columns: Tensor) -> Tensor:
        """float32 [N, k] noise for the tokens at `positions` [N], of the `columns` int64 [N, k] of each alone: what
        `at` has there."""
        keys = on_device([_signed(self._key_of(position)) for position in positions], columns.device)
        token_ids = columns if self._token_ids is None else self._token_ids.to(columns.device)[columns]
        return _gumbel((token_ids + 1).mul_(_signed(_GAMMA)).add_(keys[:, None]))

    def forget(self, position: int) -> None:
        """Drop what was kept for positions before this one."""
        self._vectors = {known: vector for known, vector in self._vectors.items() if known >= position}

    def _draw(self, position: int, vocab_size: int, device: torch.device | None) -> Tensor:
        """`at`, made anew."""
        if self._counters is None or len(self._counters) != vocab_size or self._counters.device != device:
            numbers = torch.arange(vocab_size, device=device) if self._token_ids is None else self._token_ids.to(device)
            self._counters = (numbers + 1).mul_(_signed(_GAMMA))
        return _gumbel(self._counters + _signed(self._key_of(position)))

    def _key_of(self, position: int) -> int:
        return _mix(self._key ^ (position & _WORD))


def _gumbel(bits: Tensor) -> Tensor:
    """Hash the counters key + gamma * (token id + 1), int64, which are changed, to 53 uniform bits each, then to Gumbel
    in float64."""
    for shift, factor in _MIX:
        bits.bitwise_xor_(_shift_right(bits, shift)).mul_(_signed(factor))
    bits.bitwise_xor_(_shift_right(bits, _LAST_SHIFT))
    uniform = _shift_right(bits, 11).double().add_(0.5).mul_(2.0**-53)
    return uniform.log_().neg_().log_().neg_().float()


def _mix(word: int) -> int:
    """SplitMix64's finalizer on a Python integer."""
    for shift, factor in _MIX:
        word = ((word ^ (word >> shift)) * factor) & _WORD
    return word ^ (word >> _LAST_SHIFT)


def _signed(word: int) -> int:
    """The int64 with the same 64 bits."""
    return word - (1 << 64) if word >> 63 else word


def _shift_right(bits: Tensor, shift: int) -> Tensor:
    """Logical shift of int64, which torch shifts arithmetically."""
    return (bits >> shift).bitwise_and_((1 << (64 - shift)) - 1)
