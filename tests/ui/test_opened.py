"""An opened document: its tokens are counted once, a part of it is a sum."""

import time
from pathlib import Path

from spec_engine.config import ModelRef, Preset
from spec_engine.documents.anchors import Anchor, Block, Document
from spec_engine.ui.opened import OpenedDocument
from spec_engine.ui.workspace import Workspace
from tests.ui.fakes import ScriptedEngine, WordTokenizer

PRESET = Preset("builtin", "Built-in", "", ModelRef("m"), 4096)


class CountingTokenizer(WordTokenizer):
    """Knows how many characters it was given, and is as slow as a large text makes it."""

    def __init__(self) -> None:
        super().__init__()
        self.num_chars = self.most_chars = 0

    def encode(self, text: str) -> list[int]:
        self.num_chars += len(text)
        self.most_chars = max(self.most_chars, len(text))
        return super().encode(text)


def test_a_part_is_a_sum_of_what_was_counted() -> None:
    seen: list[str] = []

    def count(texts: list[str]) -> list[int]:
        seen.extend(texts)
        return [len(text) for text in texts]

    blocks = tuple(Block(Anchor("page", f"p. {number}", number), "word " * 40) for number in range(50))
    document = Document("a", "a.txt", blocks)
    opened = OpenedDocument(document, document).measured(count, 2_000, 100)
    assert opened.whole_budget is not None
    seen.clear()
    part = opened.narrowed(3, 9).part_measured(count)
    assert part.budget is not None
    assert part.whole_budget is opened.whole_budget
    assert part.budget.num_tokens == sum(opened.whole_budget.num_tokens_by_block[3:10])
    assert (part.budget.context_length, part.budget.reserved, part.budget.fits) == (2_000, 100, True)
    assert not opened.narrowed(3, 29).part_measured(count).budget.fits  # type: ignore[union-attr]
    assert opened.narrowed(0, 49).part_measured(count).budget is opened.whole_budget
    assert seen == []
    assert opened.unmeasured().narrowed(0, 1).part_measured(count).budget is None


def test_choosing_a_part_of_a_document_that_is_much_too_long_takes_no_time(tmp_path: Path) -> None:
    tokenizer = CountingTokenizer()
    workspace = Workspace(lambda preset, watch, room: ScriptedEngine("answer", tokenizer=tokenizer))
    workspace.switch(PRESET).join(10)
    path = tmp_path / "long.txt"
    path.write_text("\n\n".join("A sentence of seven words stands here. " * 40 for _ in range(1_000)), "utf-8")
    workspace.open_documents([path])
    assert workspace.opened is not None
    assert workspace.opened.budget is not None
    assert not workspace.opened.budget.fits
    size = len(workspace.opened.whole.text)
    assert tokenizer.num_chars < 1.2 * size  # all of it once …
    assert tokenizer.most_chars < size / 10  # … and never in one piece
    tokenizer.num_chars = 0
    started = time.perf_counter()
    workspace.choose_range(2, 5)
    assert time.perf_counter() - started < 0.5
    assert tokenizer.num_chars == 0
    assert workspace.opened.budget is not None
    assert workspace.opened.budget.fits
    assert workspace.why_not_ask == ""
    workspace.close()
