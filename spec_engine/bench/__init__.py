"""Measurements: speed against plain decoding and against transformers, and how often the answers are right."""
