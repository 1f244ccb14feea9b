"""Many turns and switches with real engines: nothing may be left behind in memory."""

import gc
from dataclasses import replace
from pathlib import Path

import pytest

from spec_engine.chat.history import History
from spec_engine.config import GenerationDefaults, RetrievalConfig
from spec_engine.ui.engines import EngineSource
from spec_engine.ui.workspace import Workspace
from tests.fakes import pair_preset, perturbed, save_pair, tiny_lm

NUM_TURNS, NUM_SWITCHES, TURNS_A_CHAT = 200, 30, 10


def resident_mb() -> float:
    """Memory of this process."""
    gc.collect()
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_memory_stays_flat_over_many_turns_and_switches(tmp_path: Path) -> None:
    target = tiny_lm("llama")
    save_pair(tmp_path / "pair", target, perturbed(target, 0.02))
    retrieval = RetrievalConfig(chunk_size=32, top_k=4, num_recent=64)
    first = pair_preset(tmp_path / "pair", "blend", context_length=4096, retrieval=retrieval)
    first = replace(first, generation=GenerationDefaults(max_tokens=12))
    second = replace(first, name="other", draft=replace(first.draft, kind="lookup"))
    report = tmp_path / "report.txt"
    report.write_text("The board closed the fund of the district in May. " * 40)

    workspace = Workspace(EngineSource("cpu"), History(tmp_path / "data"))
    settled = 0.0
    num_switched = 0
    for number in range(NUM_TURNS):
        if number % (NUM_TURNS // NUM_SWITCHES) == 0 and num_switched < NUM_SWITCHES:
            assert workspace.switch(second if num_switched % 2 else first).join(120)
            assert workspace.trouble == ""
            num_switched += 1
        if number == 0:
            workspace.open_documents([report])
        elif number % TURNS_A_CHAT == 0:
            workspace.new_chat()
        assert workspace.ask(f"Question {number}?").join(60)
        assert workspace.trouble == ""
        if number == NUM_TURNS // 2:
            settled = resident_mb()
    grown = resident_mb() / settled
    assert num_switched == NUM_SWITCHES
    assert sum(one.num_turns for one in workspace.talk.summaries()) == NUM_TURNS
    assert grown < 1.05, f"{grown:.3f} times the memory after half of the turns"
    workspace.close()
