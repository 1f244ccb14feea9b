"""The files of a draft head: a configuration and weights that transformers has no class for.

Job: `load_checkpoint`, from the hub or a folder, and `save_checkpoint`, in the same layout.
Non-job: what the names mean (the drafter that reads them), whole models (`load`).
"""

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spec_engine.config import ModelRef, Preset
from spec_engine.errors import ModelError, ModelNotFound
from spec_engine.model.load import fetch, reading

_LARGEST = 1 << 40  # no size of a model is larger


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A head as it was stored: `name` for messages, `config` from its config.json, `tensors` on the CPU by name."""

    name: str
    config: dict[str, object]
    tensors: dict[str, Tensor]

    def number(self, *keys: str) -> int:
        """The whole number above 0 under the first of these keys that the configuration has. Raises `ModelError`."""
        found = next((number for key in keys if (number := self.number_or_none(key)) is not None), None)
        if found is None:
            raise ModelError(
                f"The config.json of '{self.name}' does not say its {keys[0]}, a whole number above 0. Correct it, or "
                "choose another head."
            )
        return found

    def number_or_none(self, key: str) -> int | None:
        """The whole number above 0 under `key`, None where there is none. Raises `ModelError` for anything else."""
        value = self.config.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= _LARGEST:
            raise self._wrong(key, "a whole number above 0")
        if value != int(value):
            raise self._wrong(key, "a whole number above 0")
        return int(value)

    def decimal(self, key: str, default: float) -> float:
        """The number under `key`. Raises `ModelError` for anything else."""
        value = self.config.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, "a number")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """true or false under `key`. Raises `ModelError` for anything else."""
        value = self.config.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def table(self, key: str) -> "Checkpoint":
        """The configuration inside this one under `key`, empty where there is none. Raises `ModelError`."""
        value = self.config.get(key)
        if value is not None and not isinstance(value, dict):
            raise self._wrong(key, "a table")
        return Checkpoint(self.name, value or {}, {})

    def layers(self, key: str) -> tuple[int, ...]:
        """The numbers of layers under `key`, none where there is nothing; -1 is the embedding. Raises `ModelError`."""
        value = self.config.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or any(type(layer) is not int or layer < -1 for layer in value):
            raise self._wrong(key, "a list of layers")
        return tuple(value)

    def _wrong(self, key: str, wanted: str) -> ModelError:
        return ModelError(
            f"The config.json of '{self.name}' must give '{key}' as {wanted}, not {self.config[key]!r}. Correct it, or "
            "choose another head."
        )


def load_checkpoint(preset: Preset, ref: ModelRef) -> Checkpoint:
    """The head `ref`: a folder beside the preset or elsewhere, or a repository of the hub.

    Raises `ModelDownloadError`, and like `read_checkpoint`.
    """
    return read_checkpoint(Path(fetch(preset, ref, weights=True, has_tokenizer=False)), ref.id)


def load_head_config(preset: Preset, ref: ModelRef) -> Checkpoint:
    """The configuration of a head alone, without tensors. Raises like `load_checkpoint`."""
    return Checkpoint(ref.id, _read_config(Path(fetch(preset, ref, weights=False, has_tokenizer=False)), ref.id), {})


def read_checkpoint(folder: Path, name: str) -> Checkpoint:
    """The head in `folder`, called `name` in messages; nothing but tensors is unpickled.

    Raises `ModelNotFound` for missing files, `ModelError` for damaged ones.
    """
    config = _read_config(folder, name)
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    with reading(name):
        tensors = {key: tensor for file in files for key, tensor in _read(file, name).items()}
    if not tensors:
        raise ModelNotFound(
            f"'{name}' holds no weights: there is neither a *.safetensors nor a pytorch_model*.bin in {folder}. "
            "Check the folder or the id."
        )
    return Checkpoint(name, config, tensors)


def save_checkpoint(folder: Path, config: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
    """Write what `load_checkpoint` reads: ``config.json`` and ``model.safetensors``, in the dtype of the tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
    save_file(
        {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, folder / "model.safetensors"
    )


def _read_config(folder: Path, name: str) -> dict[str, object]:
    """The table in config.json."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelNotFound(f"The head '{name}' has no readable config.json: {error}. Check the folder.") from error
    if not isinstance(config, dict):
        raise ModelError(f"The config.json of '{name}' holds no table of settings. Load the head again.")
    return config


def _read(file: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one file."""
    if file.suffix == ".safetensors":
        return load_file(file)
    try:
        stored: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ModelError(f"A weight file of '{name}' is damaged: {error}. Delete it and load again.") from error
    return stored
