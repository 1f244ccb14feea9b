"""Models of pictures and sound, of which only the text is wanted here.

Job: `keep_text`, which lets go of the parts of a model that text never reaches.
Non-job: finding the text model's configuration (transformers' ``get_text_config``).

Gemma 4's published checkpoints hold parts for pictures and sound, some hundred million weights. A document is text
here, and on a small card its keys and values have a better use for that memory.
"""

from typing import Final

from torch import nn
from transformers import PreTrainedModel

_KNOWN: Final = ("gemma3", "gemma4", "gemma4_unified")  # others may ask these parts about tokens, as gemma3n does


def keep_text(model: PreTrainedModel) -> None:
    """Drop what stands beside the language model in models of which that is known to be right; leave others alone."""
    inner = getattr(model, "model", None)
    if model.config.model_type not in _KNOWN or not isinstance(inner, nn.Module):
        return
    for name, _ in list(inner.named_children()):
        if name != "language_model":
            setattr(inner, name, None)  # the attribute stays, as forwards ask whether there is one
