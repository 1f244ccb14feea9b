"""Where the page computes: in threads that end, as those that stay would slow down all others (`ui.apart.aside`)."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spec_engine.chat.history import History
from spec_engine.config import GenerationDefaults, Preset, RetrievalConfig
from spec_engine.model import products
from spec_engine.ui import layout
from spec_engine.ui.apart import aside
from spec_engine.ui.components import Page
from spec_engine.ui.engines import EngineSource
from spec_engine.ui.handlers import Handlers
from spec_engine.ui.job import Job
from spec_engine.ui.server import available_presets
from spec_engine.ui.shelf import PresetShelf
from spec_engine.ui.state import Fact, Seen, Wanted
from spec_engine.ui.workspace import Workspace
from tests.fakes import pair_preset, perturbed, save_pair, tiny_lm


class Computed(TorchDispatchMode):
    """The names of what is computed in the thread that enters this."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def computed() -> Iterator[list[str]]:
    """What the thread of the test computes; what is measured once in a process has not been measured yet."""
    products._measured.cache_clear()
    with Computed() as mode:
        yield mode.names


def test_work_aside_is_in_a_thread_that_ends(computed: list[str]) -> None:
    threads: list[threading.Thread] = []

    def work() -> int:
        threads.append(threading.current_thread())
        return int(torch.ones(3).sum())

    assert work() == 3
    assert computed
    computed.clear()
    assert aside(work) == 3
    assert computed == []
    assert not threads[1].is_alive()
    with pytest.raises(ZeroDivisionError):
        aside(lambda: 1 // 0)


def test_no_thread_that_stays_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, computed: list[str]) -> None:
    """The main thread puts the page together, and the threads of the server answer its events: this one does both."""
    made: list[Handlers] = []

    class Noted(Handlers):
        def __init__(self, page: Page, workspace: Workspace, shelf: PresetShelf) -> None:
            super().__init__(page, workspace, shelf)
            made.append(self)

    def pair() -> Preset:
        target = tiny_lm("llama")
        save_pair(tmp_path / "pair", target, perturbed(target, 0.02))
        retrieval = RetrievalConfig(chunk_size=32, top_k=4, num_recent=64)
        given = pair_preset(tmp_path / "pair", "blend", context_length=4096, retrieval=retrieval)
        return replace(given, generation=GenerationDefaults(max_tokens=12))

    preset = aside(pair)
    monkeypatch.setattr(layout, "Handlers", Noted)
    workspace = Workspace(EngineSource("cpu"), History(tmp_path / "data"), reads_ahead=True)
    shelf = PresetShelf([*available_presets(print), preset], tmp_path / "own", "cpu", lambda: 10**10)
    blocks = layout.build_page(workspace, shelf)
    handlers, report = made[0], tmp_path / "report.txt"
    report.write_text("The board closed the fund of the district in May. " * 40)

    def ended(job: Job[Fact] | None) -> None:
        assert job is not None
        assert job.join(60)
        assert workspace.trouble == ""
        handlers.show_result("", None)

    handlers.open_page()
    products._measured.cache_clear()
    shelf._needs.clear()
    handlers.switch(preset.name)
    ended(workspace.job)
    ended(workspace.start_opening(Wanted((report,))))
    for question in ("What was closed?", "When?"):
        handlers.ask(question, Seen(workspace.view))
        ended(workspace.answer_job)
        handlers.calibrate()
        ended(workspace.job)
    handlers.race()
    ended(workspace.race_job)
    first = workspace.talk.path[-1].id
    handlers._begin(lambda: workspace.ask("Which one?", 1))
    ended(workspace.answer_job)
    handlers.show_branch(first)
    workspace.place_at(30, 4)
    handlers.new_chat(None)
    handlers.open_conversation(workspace.talk.summaries()[0].id)
    ended(workspace.job)
    handlers.race()
    ended(workspace.race_job)
    workspace.close()
    blocks.close()
    assert computed == []
