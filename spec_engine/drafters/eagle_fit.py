"""Whether a head fits its target, and what it takes from it.

Job: `fit_head`: a head's files and a target become a `FittedHead`, or an error that names the two numbers.
Non-job: reading files (`eagle_files`), drafting (`eagle3`).
"""

from dataclasses import replace

import torch
from torch import Tensor

from spec_engine.config import DTypeName
from spec_engine.drafters.eagle_files import HeadFiles
from spec_engine.drafters.eagle_head import EagleHead, FittedHead
from spec_engine.errors import UnsupportedModel, VocabularyMismatch
from spec_engine.model.features import FeatureRecorder
from spec_engine.model.head_products import join_products, output_weight
from spec_engine.model.load import pick_dtype
from spec_engine.model.target import Target

_ADVICE = "Choose a head that was made for this target, or the drafter 'lookup', which fits every one."


def fit_head(files: HeadFiles, target: Target, dtype_name: DTypeName = "auto") -> FittedHead:
    """The head of `files` beside `target`, in the target's dtype unless another is named.

    Raises `UnsupportedModel` where hidden sizes or layers do not fit, `VocabularyMismatch` where token ids do not.
    """
    layers = _layers(files, FeatureRecorder(target.model).num_layers)
    weights, embedding = dict(files.weights), _embedding(target)
    _check_sizes(files, target, len(layers))
    own = weights.get("embed_tokens.weight")
    config = files.config
    if own is not None and own.shape == embedding.shape and torch.equal(own.to(embedding), embedding):
        del weights["embed_tokens.weight"]  # most files hold a copy of the target's
        config = replace(config, num_embeddings=None)
    _check_vocabulary(files, config.num_embeddings, target.vocab_size)
    dtype = target.dtype if dtype_name == "auto" else pick_dtype(dtype_name, target.device, None)
    with torch.device("meta"):
        head = EagleHead(config)
    head.load_state_dict({key: value.to(target.device, dtype) for key, value in weights.items()}, assign=True)
    join_products(head.requires_grad_(False))
    if config.num_columns is None and not target.has_output:
        raise UnsupportedModel(f"The target names no output layer, so this head cannot draft for it. {_ADVICE}")
    return FittedHead(
        name=files.name,
        head=head,
        layers=layers,
        embedding=embedding if head.embed_tokens is None else head.embed_tokens.weight,
        output=target.output if config.num_columns is None else None,
        target_ids=None if files.target_ids is None else files.target_ids.to(target.device),
        trained_length=files.trained_length,
        is_apart=config.num_columns is None and target.runner.is_spread,
        output_weight=output_weight(target) if config.num_columns is None else None,
    )


def _layers(files: HeadFiles, num_layers: int) -> tuple[int, ...]:
    """What the head reads: an early, a middle and a late layer in EAGLE-3, else the final states."""
    if not (files.config.is_eagle3 and files.config.has_fc):
        return (num_layers,)
    layers = files.layers or (2, num_layers // 2, num_layers - 3)
    wrong = [layer for layer in layers if not 0 <= layer < num_layers]
    if wrong:
        raise UnsupportedModel(
            f"The head '{files.name}' reads the states before layer {wrong[0]}, counted from 0, but the target has "
            f"{num_layers} layers. {_ADVICE}"
        )
    return layers


def _check_sizes(files: HeadFiles, target: Target, num_layers: int) -> None:
    """Raise `UnsupportedModel` where the target's states and embeddings are not as wide as the head expects."""
    config, width = files.config, int(_embedding(target).shape[1])
    if config.feature_size != num_layers * width:
        raise UnsupportedModel(
            f"The head '{files.name}' reads {config.feature_size:,} numbers a token, but {num_layers} hidden states of "
            f"this target, of size {width:,}, are {num_layers * width:,}. {_ADVICE}"
        )
    needs_target = config.num_embeddings is None or config.num_columns is None
    if needs_target and config.hidden_size != width:
        raise UnsupportedModel(
            f"The head '{files.name}' has hidden size {config.hidden_size:,} and shares the embedding or the output "
            f"layer of its target, whose hidden size is {width:,}. {_ADVICE}"
        )


def _check_vocabulary(files: HeadFiles, num_embeddings: int | None, vocab_size: int) -> None:
    """Raise `VocabularyMismatch` unless drafted tokens are the target's, and each of its tokens has an embedding."""
    columns = files.config.num_columns
    if files.target_ids is not None:
        lowest, highest = int(files.target_ids.min()), int(files.target_ids.max())
        known = highest if lowest >= 0 else lowest
        if lowest < 0 or highest >= vocab_size:
            raise VocabularyMismatch(
                f"The head '{files.name}' drafts token {known:,}, but the target's vocabulary has {vocab_size:,} "
                f"tokens. {_ADVICE}"
            )
    elif columns is not None and files.vocab_size is not None and columns < files.vocab_size:
        raise VocabularyMismatch(
            f"The head '{files.name}' drafts {columns:,} of {files.vocab_size:,} tokens, but its files do not say "
            "which: d2t is missing. Load them again, or choose another head."
        )
    claimed = max(files.vocab_size or 0, columns if columns is not None and files.target_ids is None else 0)
    if claimed > vocab_size or (num_embeddings is not None and num_embeddings < vocab_size):
        raise VocabularyMismatch(
            f"The head '{files.name}' was made for {max(claimed, num_embeddings or 0):,} tokens, the target's "
            f"vocabulary has {vocab_size:,}. {_ADVICE}"
        )


def _embedding(target: Target) -> Tensor:
    """The target's token embeddings [V, H], as they lie in memory."""
    weight = target.model.get_input_embeddings().weight
    assert isinstance(weight, Tensor), "an embedding has a weight"
    return weight.detach()
