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


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A head as it was stored: `name` for messages, `config` from its config.json, `tensors` on the CPU by name."""

    name: str
    config: dict[str, object]
    tensors: dict[str, Tensor]

    def number(self, *keys: str) -> int:
        """The whole number above 0 under the first of these keys that the configuration has. Raises `ModelError`."""
        found = next((self.config[key] for key in keys if self.config.get(key) is not None), None)
        if type(found) is not int or found < 1:
            raise ModelError(
                f"The config.json of '{self.name}' must give '{keys[0]}' as a whole number above 0, not {found!r}. "
                "Correct it, or choose another head."
            )
        return found


def load_checkpoint(preset: Preset, ref: ModelRef) -> Checkpoint:
    """The head `ref`: a folder beside the preset or elsewhere, or a repository of the hub.

    Raises `ModelNotFound`, `ModelDownloadError`, or `ModelError` when a file is damaged.
    """
    folder = Path(fetch(preset, ref, weights=True))
    with reading(ref.id):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
        tensors = {name: tensor for file in files for name, tensor in _read(file, ref.id).items()}
    if not tensors:
        raise ModelNotFound(
            f"'{ref.id}' holds no weights: there is neither a *.safetensors nor a pytorch_model*.bin in {folder}. "
            "Check the folder or the id."
        )
    return Checkpoint(ref.id, config, tensors)


def load_head_config(preset: Preset, ref: ModelRef) -> Checkpoint:
    """The configuration of a head alone, without tensors. Raises like `load_checkpoint`."""
    with reading(ref.id):
        folder = Path(fetch(preset, ref, weights=False))
        return Checkpoint(ref.id, json.loads((folder / "config.json").read_text(encoding="utf-8")), {})


def save_checkpoint(folder: Path, config: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
    """Write what `load_checkpoint` reads: ``config.json`` and ``model.safetensors``, in the dtype of the tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
    save_file(
        {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, folder / "model.safetensors"
    )


def _read(file: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one file."""
    if file.suffix == ".safetensors":
        return load_file(file)
    try:
        stored: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ModelError(f"A weight file of '{name}' is damaged: {error}. Delete it and load again.") from error
    return stored
