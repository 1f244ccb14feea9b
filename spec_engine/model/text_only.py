"""Models of pictures and sound, of which only the text is wanted here.

Job: `keep_text`, which lets go of the parts of a model that text never reaches.
Non-job: finding the text model's configuration (transformers' ``get_text_config``).

Gemma 4's published checkpoints hold parts for pictures and sound, some hundred million weights. A document is text
here, and on a small card its keys and values have a better use for that memory.
"""

from torch import nn
from transformers import PreTrainedModel


def keep_text(model: PreTrainedModel) -> None:
    """Drop what stands beside the language model of a model that has one; others are left alone."""
    inner = getattr(model, "model", None)
    if not isinstance(inner, nn.Module) or not isinstance(getattr(inner, "language_model", None), nn.Module):
        return
    for name, _ in list(inner.named_children()):
        if name != "language_model":
            setattr(inner, name, None)  # the attribute stays, as forwards ask whether there is one
