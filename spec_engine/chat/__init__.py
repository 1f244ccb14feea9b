"""One conversation over one document: how the prompt is put together, and what was said so far."""
