"""Lossless long-context speculative decoding for transformers models, and a page to chat with documents.

The public names are loaded on first use, so that light modules (presets, documents) do not pull in torch.
"""

from importlib import import_module

_HOME = {
    "Engine": "engine",
    "Request": "engine",
    "StopRules": "engine",
    "load_engine": "loading",
    "generate_with": "dropin",
    "SamplingParams": "sampling",
    "Session": "chat.session",
    "TokensAccepted": "events",
    "read_document": "documents.read",
    "load_preset": "config",
    "SpecEngineError": "errors",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    """A public name, from the module where it lives."""
    if name not in _HOME:
        raise AttributeError(f"module 'spec_engine' has no attribute '{name}'. Public: {', '.join(_HOME)}")
    return getattr(import_module(f"spec_engine.{_HOME[name]}"), name)
