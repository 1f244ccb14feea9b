"""Loading models and tokenizers, from the hub or a folder.

Job: where a model runs and in which dtype, download, quantisation, the vocabulary check between target and draft, and
errors in words for everything that goes wrong on the way.
Non-job: using the model (`target`, `drafters.lm`), deciding which model (`config`).

Weights get their dtype while they are read. Casting a loaded model would also cast its rotary frequencies, which ruins
bfloat16 models at long context.
"""

import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from spec_engine.config import DTypeName, ModelRef, Preset, Quantization, resolve_model
from spec_engine.errors import (
    MissingDependency,
    ModelError,
    ModelNotFound,
    UnsupportedModel,
    VocabularyMismatch,
)
from spec_engine.model.hub import fetch_repository, is_cached
from spec_engine.model.layout import lay_out_for_small_passes
from spec_engine.model.text_only import keep_text
from spec_engine.model.tokenizer import Tokenizer
from spec_engine.model.watch import LoadProgress, LoadWatch, current_watch

ALL_GPUS = "cuda:all"  # a model's layers spread over all GPUs
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_INSTALL_QUANT = "Run in the project's folder: pip install -e '.[quant]'"
_OLDEST_BITSANDBYTES = (0, 50)  # before it, a pass over more than one token dequantised every weight


def pick_device(name: str = "auto") -> torch.device:
    """The device of this name; "auto" is the first GPU if there is one, else the CPU. Of `ALL_GPUS` it is the first,
    where token ids go in and drafts run.

    Raises `ModelError` for a name that is no device, or a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device("cuda:0" if name == ALL_GPUS else name)
    except RuntimeError:
        raise ModelError(f"'{name}' is no device. Use auto, cpu, cuda, cuda:0 or cuda:all.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"The device '{name}' was asked for, but torch finds no CUDA GPU here. Use the device 'cpu', or install a "
            "torch build with CUDA and a driver."
        )
    return device


def pick_dtype(name: DTypeName, device: torch.device, checkpoint: torch.dtype | None) -> torch.dtype:
    """The dtype to load weights in: "auto" is the checkpoint's on an accelerator and float32 on the CPU."""
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cpu" or checkpoint is None:
        return torch.float32
    if checkpoint is torch.bfloat16 and device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 8:
        return torch.float16  # GPUs before Ampere compute in bfloat16 only by emulation
    return checkpoint


def load_target(preset: Preset, ref: ModelRef, *, device: str = "auto") -> PreTrainedModel:
    """The causal language model of `ref`, in eval mode on its device, or its layers on `ALL_GPUS`; for drafts too.

    Raises `ModelNotFound`, `ModelDownloadError`, `UnsupportedModel`, `MissingDependency`, `Stopped`, or
    `ModelError` when it does not fit the memory.
    """
    where = pick_device(device)
    places = _places(device)
    if ref.quantization != "none":
        _require_bitsandbytes()
    folder = fetch(preset, ref, weights=True)
    config = _load_config(folder, ref)
    checkpoint = config.dtype if isinstance(config.dtype, torch.dtype) else None
    dtype = pick_dtype(ref.dtype, where, checkpoint)
    with reading(ref.id), _telling_weights(ref.id):
        if ref.quantization == "none" and places is not None:
            model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype, device_map=places)
        elif ref.quantization == "none":
            model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype)
            keep_text(model)  # before it takes memory there
            torch.nn.Module.to(model, where)  # device only: see the module's docstring
        else:
            settings = _quantization_settings(ref.quantization, dtype)
            model = AutoModelForCausalLM.from_pretrained(
                folder, config=config, dtype=dtype, quantization_config=settings, device_map=places or {"": where}
            )
        keep_text(model)
    assert isinstance(model, PreTrainedModel), "transformers gives its own models"
    model.train(False)
    lay_out_for_small_passes(model)
    return model


def _places(device: str) -> str | dict[str, str] | None:
    """accelerate's device map where a model is to be spread; None for a single device."""
    if device != ALL_GPUS or torch.cuda.device_count() < 2:
        return None
    if importlib.util.find_spec("accelerate") is None:
        raise MissingDependency(f"Spreading a model over several GPUs needs the package accelerate. {_INSTALL_QUANT}")
    return "balanced"


class _Weights:
    """Takes the place of transformers' progress bar: tells how many of a model's tensors are read."""

    def __init__(self, name: str, watch: LoadWatch, items: Iterable[object], total: int) -> None:
        self._message = f"Reading {name}"
        self._watch = watch
        self._items = items
        self._total = total

    def __iter__(self) -> Iterator[object]:
        for number, item in enumerate(self._items):
            self._watch.tell(LoadProgress(self._message, number / max(1, self._total)))
            yield item

    def __getattr__(self, name: str) -> Callable[..., None]:
        """What else a progress bar can do does nothing here."""
        return lambda *args, **kwargs: None


@contextmanager
def _telling_weights(name: str) -> Iterator[None]:
    """transformers tells the watch of this thread, between two tensors, how far it is with reading a model."""
    watch = current_watch()

    def bar(factory: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Weights:
        items = args[0] if args else kwargs.get("iterable", ())
        return _Weights(name, watch, items, kwargs.get("total") or len(items))

    before = transformers_logging.set_tqdm_hook(bar)
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(before)


def load_config(preset: Preset, ref: ModelRef) -> PretrainedConfig:
    """The configuration of `ref` alone, for `memory.memory_need`. Raises like `load_target`."""
    return _load_config(fetch(preset, ref, weights=False), ref)


def load_tokenizer(preset: Preset, ref: ModelRef) -> Tokenizer:
    """The tokenizer of `ref`, with the stop ids of its generation settings. Raises like `load_target`."""
    folder = fetch(preset, ref, weights=False)
    with reading(ref.id):
        return Tokenizer(AutoTokenizer.from_pretrained(folder), _stop_ids(folder))


def check_vocabulary(target: Tokenizer, draft: Tokenizer) -> None:
    """Raise `VocabularyMismatch` unless target and draft mean the same by a token id.

    Compared are all ids that both have; one of them may know more tokens at the end.
    """
    left, right = target.vocabulary(), draft.vocabulary()
    num_common = min(max(left.values()), max(right.values())) + 1
    spelled = {token_id: token for token, token_id in left.items() if token_id < num_common}
    for token, token_id in right.items():
        if token_id < num_common and spelled.get(token_id, token) != token:
            raise VocabularyMismatch(
                f"Target ({len(left):,} tokens) and draft ({len(right):,} tokens) have different vocabularies: id "
                f"{token_id} is {spelled[token_id]!r} for the target and {token!r} for the draft. Use a draft of the "
                "same model family, or the drafter 'lookup', which needs no second model."
            )


def _load_config(folder: str, ref: ModelRef) -> PretrainedConfig:
    with reading(ref.id):
        config: PretrainedConfig = AutoConfig.from_pretrained(folder)
    return config


def _stop_ids(folder: str) -> list[int]:
    """End tokens named in ``generation_config.json`` or, where that says nothing, in ``config.json``."""
    for name in ("generation_config.json", "config.json"):
        path = Path(folder) / name
        found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
        if found is not None:
            return [found] if isinstance(found, int) else list(found)
    return []


def is_here(preset: Preset, ref: ModelRef, *, weights: bool) -> bool:
    """Whether the configuration of `ref`, or its weights too, are on this machine."""
    found = resolve_model(preset, ref)
    return (Path(found) / "config.json").is_file() or is_cached(found, ref.revision, weights=weights)


def fetch(preset: Preset, ref: ModelRef, *, weights: bool, has_tokenizer: bool = True) -> str:
    """A folder with the files of `ref`: itself if it is local, else downloaded. Raises like `load_target`.

    `has_tokenizer` is False for the head of a drafter.
    """
    found = resolve_model(preset, ref)
    path = Path(found)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFound(f"The folder {found} holds no model: config.json is missing. Check the path.")
        return found
    if path.is_absolute() or found.startswith((".", "~")):
        raise ModelNotFound(f"The folder {found} does not exist. Correct the path in preset '{preset.name}'.")
    return str(fetch_repository(found, ref.revision, weights=weights, has_tokenizer=has_tokenizer))


@contextmanager
def reading(name: str) -> Iterator[None]:
    """What goes wrong while files become a model, in our words."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"'{name}' does not fit the memory of the GPU. Choose a smaller model, a 4-bit preset, or the device 'cpu'."
        ) from error
    except SafetensorError as error:
        raise ModelError(f"A weight file of '{name}' is damaged: {error}. Delete it and load again.") from error
    except OSError as error:
        raise ModelNotFound(f"'{name}' is no complete model: {error} Check the folder or the id.") from error
    except ImportError as error:
        raise MissingDependency(f"Loading '{name}' needs another package: {error} {_INSTALL_QUANT}") from error
    except (ValueError, KeyError, StrictDataclassError) as error:
        raise UnsupportedModel(f"transformers cannot load '{name}': {error}. Choose another model.") from error


def _require_bitsandbytes() -> None:
    """Raise `MissingDependency` unless a fitting bitsandbytes and accelerate are installed."""
    for package in ("bitsandbytes", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependency(f"Quantised models need the package {package}. {_INSTALL_QUANT}")
    version = importlib.metadata.version("bitsandbytes")
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_BITSANDBYTES:
        raise MissingDependency(
            f"bitsandbytes {version} is too old: speculation would be slower than plain decoding. {_INSTALL_QUANT}"
        )


def _quantization_settings(kind: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with double quantisation (QLoRA, arXiv 2305.14314), or LLM.int8 (arXiv 2208.07339)."""
    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
