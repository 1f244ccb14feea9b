"""What is measured against each other: an engine for every way to draft, on one target, and transformers' own ways.

Job: from presets and the names of methods to engines. Non-job: running them (run.py).

A method is a kind of drafter; with a minus behind it, as in ``lm-``, without retrieval.
"""

from collections.abc import Callable, Sequence
from typing import cast

from spec_engine.bench.peers import PeerModel, Peers
from spec_engine.bench.run import PLAIN
from spec_engine.config import MODEL_DRAFTERS, DrafterKind, Preset, resolve_model
from spec_engine.drafters import DRAFTERS, available_drafters
from spec_engine.engine import Engine
from spec_engine.errors import RequestError
from spec_engine.loading import load_engine
from spec_engine.model.load import load_target
from spec_engine.model.watch import spoken


def build_peers(preset: Preset, engine: Engine) -> Peers:
    """transformers on the engine's target, with a copy of the preset's draft model where it has one."""
    draft = preset.draft.model if preset.draft.model_kind == "lm" else None
    target = peer_model(preset, engine)
    return Peers(target, None if draft is None else load_target(preset, draft, device=engine.device))


def peer_model(preset: Preset, engine: Engine) -> PeerModel:
    """The engine's model as transformers loads it. On a CPU a second one: there the engine's weights may lie in an
    order in which they are slower, or not at all, for transformers' modules."""
    on_cpu = engine.target.device.type == "cpu"
    return load_target(preset, preset.target, device=engine.device) if on_cpu else engine.target.model


def all_methods(presets: Sequence[Preset]) -> list[str]:
    """All that `build_engines` can make of these presets."""
    methods = [method for preset in presets for method in _methods(preset)]
    return list(dict.fromkeys(methods))


def build_engines(
    presets: Sequence[Preset],
    methods: Sequence[str],
    device: str,
    tell: Callable[[str], None],
    *,
    adaptive: bool = True,
) -> dict[str, Engine]:
    """One engine a method on the target of the first preset; each method as the first preset that can run it has it.

    `adaptive` is `EngineConfig.adaptive`. Raises `RequestError` for an unknown method, for one that no preset can run,
    for presets with different targets, or when ``none``, which the speed-up needs, is missing.
    """
    without = {f"{kind}-": kind for kind in MODEL_DRAFTERS}
    unknown = [method for method in methods if method not in DRAFTERS and method not in without]
    if unknown:
        raise RequestError(f"There is no drafter '{unknown[0]}'. Valid: {', '.join((*DRAFTERS, *without))}.")
    if PLAIN not in methods:
        raise RequestError("A speed-up needs plain decoding to compare with. Add 'none' to --drafters.")
    check_targets(presets)
    plain = load_engine(presets[0], drafter=PLAIN, device=device, adaptive=adaptive, watch=spoken(tell))
    engines: dict[str, Engine] = {PLAIN: plain}
    for method in methods:
        kind = without.get(method) or cast(DrafterKind, method)
        able = next((preset for preset in presets if kind in available_drafters(preset)), presets[0])
        if method in without:
            engines[f"{kind}, no retrieval"] = plain.with_drafter(kind, use_retrieval=False, preset=able)
        elif method != PLAIN:
            engines[method] = plain.with_drafter(kind, preset=able)
    return engines


def check_targets(presets: Sequence[Preset]) -> None:
    """Raise `RequestError` unless all presets name one target, loaded in the same way."""
    first = presets[0]
    for preset in presets:
        if (preset.target, resolve_model(preset, preset.target)) != (first.target, resolve_model(first, first.target)):
            raise RequestError(
                f"'{preset.name}' has another target ({_described(preset)}) than '{first.name}' ({_described(first)}). "
                "Measure them one after the other."
            )


def _described(preset: Preset) -> str:
    target = preset.target
    return f"{resolve_model(preset, target)}, {target.dtype}, quantisation {target.quantization}"


def _methods(preset: Preset) -> list[str]:
    kinds = available_drafters(preset)
    return [*kinds, *(f"{kind}-" for kind in kinds if kind in MODEL_DRAFTERS and preset.draft.retrieves_for(kind))]
