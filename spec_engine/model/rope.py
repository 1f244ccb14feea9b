"""Which layers of a model turn their keys by the position, and how.

Job: `find_rotations`, by trying it out on the model; `find_rotary`, the same for a draft head that looks at the keys of
one of its layers.
Non-job: turning keys (`cache.working`).

A lone token attends to itself alone, so nothing in a model depends on its position but the rotary embedding: the keys
that layers would store for one token at two positions differ by exactly one rotation each. Comparing them tells for
every layer whether it rotates at all, over which entries, in which pairing and with which frequencies, without reading
any architecture's configuration.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spec_engine.cache.working import Rotation, rotate_keys, turn
from spec_engine.errors import UnsupportedModel
from spec_engine.model.runner import Runner

_POSITION = 97  # far enough for the slow pairs to show, near enough for float32 angles
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}


@dataclass(frozen=True, slots=True)
class Angles:
    """`cos` and `sin` [n, R / 2] float32 of n positions, in the model's scale; with n = 1 they go for any rows."""

    cos: Tensor
    sin: Tensor
    is_interleaved: bool

    def turn(self, rows: Tensor) -> Tensor:
        """Queries or keys [..., n, D] turned to their positions."""
        return turn(rows, self.cos, self.sin, is_interleaved=self.is_interleaved)

    def part(self, start: int, length: int) -> "Angles":
        """Those of positions `start` to ``start + length - 1`` of the n."""
        return replace(self, cos=self.cos.narrow(0, start, length), sin=self.sin.narrow(0, start, length))


@dataclass(frozen=True, slots=True)
class Rotary:
    """Turns queries and keys as some layers of a model do. YaRN and longrope also multiply both by `scale`."""

    rotation: Rotation
    scale: float = 1.0

    def at(self, positions: Tensor) -> Angles:
        """The angles of `positions` int64 [n], on their device; computed in float64."""
        inv_freq = self.rotation.inv_freq.to(positions.device, torch.float64)
        angles = positions[:, None].double() * inv_freq
        cos, sin = (angles.cos() * self.scale).float(), (angles.sin() * self.scale).float()
        return Angles(cos, sin, self.rotation.is_interleaved)


def find_rotary(runner: Runner, layer: int) -> tuple[Rotary, Rotary | None]:
    """For a draft head beside this model: how its own attention turns, and how queries to the keys of `layer` do.

    The second is None where that layer does not rotate; the first is then that of the other layers. Raises
    `UnsupportedModel` for a model without a rotary embedding.
    """
    refusal = f"{runner.name} has no rotary embedding that a draft head could share. Choose the drafter lookup or lm."
    try:
        rotations = find_rotations(runner)
    except UnsupportedModel as error:
        raise UnsupportedModel(refusal) from error
    if not rotations:
        raise UnsupportedModel(refusal)
    found = [Rotary(rotation, _scale_of(runner, rotation.inv_freq)) for rotation in rotations]
    cross = next((rotary for rotary in found if layer in rotary.rotation.layers), None)
    return cross or found[0], cross


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
            if 2 * len(inv_freq) <= keys.shape[-1]  # of wider heads otherwise
            else math.inf
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


def _scale_of(runner: Runner, inv_freq: Tensor) -> float:
    """What the module that owns these frequencies multiplies cos and sin by."""
    for path, buffer in runner.model.named_buffers():
        if buffer.data_ptr() == inv_freq.data_ptr():
            owner, _, name = path.rpartition(".")
            scale = getattr(runner.model.get_submodule(owner), name.replace("inv_freq", "attention_scaling"), 1.0)
            return float(scale)
    return 1.0


def _distance(left: Tensor, right: Tensor) -> float:
    return float((left.double() - right.double()).abs().max())
