"""Which layers of a model turn their keys by the position, and how.

Job: `find_rotations`, by trying it out on the model.
Non-job: turning keys (`cache.working`).

A lone token attends to itself alone, so nothing in a model depends on its position but the rotary embedding: the keys
that layers would store for one token at two positions differ by exactly one rotation each. Comparing them tells for
every layer whether it rotates at all, over which entries, in which pairing and with which frequencies, without reading
any architecture's configuration.
"""

import torch
from torch import Tensor

from spec_engine.cache.working import Rotation, rotate_keys
from spec_engine.errors import UnsupportedModel
from spec_engine.model.runner import Runner

_POSITION = 97  # far enough for the slow pairs to show, near enough for float32 angles
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}


def find_rotations(runner: Runner) -> tuple[Rotation, ...]:
    """The rotations of a model's layers; layers without one are in none.

    Raises `UnsupportedModel` when keys depend on the position in another way.
    """
    start, moved = runner.probe_keys(0), runner.probe_keys(_POSITION)
    candidates = [(inv_freq, style) for inv_freq in _frequencies(runner) for style in (False, True)]
    layers: dict[int, list[int]] = {}
    for layer, keys in start.items():
        tolerance = _TOLERANCE[keys.dtype] * float(keys.abs().max())
        if _distance(keys, moved[layer]) <= tolerance / 10:
            continue
        shift = torch.tensor([_POSITION])
        errors = [
            _distance(rotate_keys(keys, shift, Rotation((layer,), inv_freq, style)), moved[layer])
            for inv_freq, style in candidates
        ]
        if not errors or min(errors) > tolerance:
            raise UnsupportedModel(
                f"{runner.name} encodes positions in a way that cannot be re-indexed, so it cannot draft with "
                "retrieval. Set draft.retrieval.enabled = false, or choose another draft."
            )
        layers.setdefault(errors.index(min(errors)), []).append(layer)
    return tuple(Rotation(tuple(group), *candidates[index]) for index, group in layers.items())


def _frequencies(runner: Runner) -> list[Tensor]:
    """Every distinct set of rotary frequencies in the model, [R / 2] each."""
    found: list[Tensor] = []
    for name, buffer in runner.model.named_buffers():
        is_known = any(torch.equal(buffer, other) for other in found)
        if name.endswith("inv_freq") and "original" not in name and not is_known:
            found.append(buffer.detach())
    return found


def _distance(left: Tensor, right: Tensor) -> float:
    return float((left.double() - right.double()).abs().max())
