"""How torch's threads wait for one another."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spec_engine.threads import wait_briefly

PROJECT = Path(__file__).parents[1]
UNSAID = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}


@pytest.mark.parametrize("said", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_what_a_user_says_stays(said: dict[str, str]) -> None:
    variables = dict(said)
    wait_briefly(variables)
    assert variables == said


@pytest.mark.parametrize(
    "start",
    ["import spec_engine.__main__ as start; start.main(['presets', 'builtin'])", "import spec_engine.ui"],
)
def test_our_programs_say_it_before_torch_is_imported(start: str) -> None:
    """And a program that only imports the package does not."""
    code = f"""
import os, sys
import spec_engine
assert "GOMP_SPINCOUNT" not in os.environ and "torch" not in sys.modules
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            assert os.environ["GOMP_SPINCOUNT"], "torch comes first"
sys.meta_path.insert(0, Watch())
{start}
assert os.environ["GOMP_SPINCOUNT"]
"""
    done = subprocess.run([sys.executable, "-c", code], env=UNSAID, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="another OpenMP library")
def test_torch_reads_it() -> None:
    """libgomp shows what it was told."""
    shown = {**UNSAID, "OMP_DISPLAY_ENV": "verbose"}
    code = "from spec_engine.threads import wait_briefly; wait_briefly(); import torch"
    done = subprocess.run([sys.executable, "-c", code], env=shown, cwd=PROJECT, capture_output=True, text=True)
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr, done.stderr
