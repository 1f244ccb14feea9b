"""Lossless long-context speculative decoding for transformers models, and a page to chat with documents."""
