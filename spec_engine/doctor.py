"""What this machine offers the engine: ``spec-engine doctor``.

Job: device, versions, the attention backend and why it was picked, optional packages, memory.
Non-job: fixing anything.
"""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from spec_engine.attention import pick
from spec_engine.config import load_preset, preset_folder, preset_names
from spec_engine.model.memory import free_bytes

PACKAGES = ("spec-engine", "torch", "transformers", "huggingface-hub", "gradio", "tokenizers", "safetensors")
OPTIONAL = {
    "flash-attn": "pip install -e '.[flash]'",
    "bitsandbytes": "pip install -e '.[quant]'",
    "rapidocr": "pip install -e '.[ocr]'",
}
GIB = 1024**3


def examine() -> dict[str, str]:
    """Findings by name, in the order in which they are shown."""
    device, name, dtype = _device()
    picked = pick(device, dtype)
    findings = {
        "device": name,
        "dtype": str(dtype).removeprefix("torch."),
        "attention": type(picked.backend).__name__,
        "attention reason": picked.reason,
        "memory": _memory(device),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    if device.type == "cpu":
        findings["attention in bfloat16"] = pick(device, torch.bfloat16).reason  # measured, because processors differ
    findings |= {package: _version(package) for package in PACKAGES}
    for package, install in OPTIONAL.items():
        findings[package] = _version(package) if find_spec(package.replace("-", "_")) else f"not installed ({install})"
    findings["presets"] = f"{', '.join(preset_names())} in {preset_folder()}"
    findings["built-in models"] = _builtin()
    return findings


def _device() -> tuple[torch.device, str, torch.dtype]:
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.cuda.get_device_name(), torch.bfloat16
    return torch.device("cpu"), f"CPU, {platform.processor() or platform.machine()} (no CUDA device)", torch.float32


def _memory(device: torch.device) -> str:
    """Free and total memory where models go."""
    free = free_bytes(device)
    if free is None:
        return "unknown on this system"
    if device.type == "cuda":
        return f"{free / GIB:.1f} of {torch.cuda.mem_get_info()[1] / GIB:.1f} GiB free on the GPU"
    return f"{free / GIB:.1f} of {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB:.1f} GiB free"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _builtin() -> str:
    """Whether the shipped weights are there."""
    folder = load_preset("builtin").folder / "builtin"
    missing = [part for part in ("target", "draft") if not (Path(folder) / part / "model.safetensors").is_file()]
    return f"missing: {', '.join(missing)} in {folder}. Restore the checkout." if missing else f"present in {folder}"
