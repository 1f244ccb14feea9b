"""Scripts that use Triton, in a process of their own: its interpreter has to be switched on before it is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_OLD_INTERPRETER = "only 0-dimensional arrays can be converted to Python scalars"  # Triton 3.6 with numpy 2.4


def run_triton(script: Path, *arguments: str, interpret: bool) -> str:
    """What `script` prints. Skips the test where this Triton's interpreter does not run with this numpy."""
    env = {**os.environ, "TRITON_INTERPRET": "1" if interpret else "0", "TRITON_DEFAULT_FP_FUSION": "1"}
    command = [sys.executable, *(["-m", "tests.interpreted"] if interpret else []), str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, check=False)
    if interpret and _OLD_INTERPRETER in done.stderr:
        pytest.skip("This Triton's interpreter cannot run loops with this numpy. Install triton>=3.7 or numpy<2.4.")
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
