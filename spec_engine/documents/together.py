"""Several documents as one.

Job: `join`: their blocks one after the other, told apart by their names, anchors that say which file they are in;
`read_documents`, which opens files for it; `new_among`, which says what is not among them yet.
Non-job: the formats (`read`).

What was computed of some files stays valid when another one comes behind them: their text stays as it is to the letter.
So the first file is named behind its text, where the second one begins; alone it needs no name.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from spec_engine.documents.anchors import BLOCK_SEPARATOR, Anchor, Block, Document, Problem
from spec_engine.documents.kept_scans import ScanStore
from spec_engine.documents.read import content_hash, read_document
from spec_engine.errors import PasswordRequired, RequestError


def read_documents(
    paths: Sequence[Path],
    passwords: Sequence[str] = (),
    on_progress: Callable[[str, int, int], None] = lambda name, num_done, num_parts: None,
    kept: ScanStore | None = None,
) -> Document:
    """Read files, in this order, as one document. Each of `passwords` is tried on every locked one.

    `on_progress` is called with a file's name, the parts of it that are read and the parts in all; what it raises ends
    the reading. `kept` is as for `read_document`. Raises what `read_document` and `join` raise.
    """
    return join([_read(path, passwords, partial(on_progress, path.name), kept) for path in paths])


def new_among(paths: Sequence[Path], known: Sequence[Path]) -> list[Path]:
    """The files whose content none of the `known` ones has, nor one before them, whatever they are called.

    Raises `UnreadableDocument` for one that cannot be read.
    """
    contents = {content_hash(path) for path in known}
    new = []
    for path in paths:
        if (content := content_hash(path)) not in contents:
            contents.add(content)
            new.append(path)
    return new


def join(documents: Sequence[Document]) -> Document:
    """One document of all blocks, in this order; a single one stays as it is.

    Before each file's text but the first stands a heading with its name, and between the first two what the first is
    called, so the model too can tell them apart. Raises `RequestError` for none.
    """
    if not documents:
        raise RequestError("No document was given. Choose at least one file.")
    if len(documents) == 1:
        return documents[0]
    names = distinct([document.source_name for document in documents])
    blocks: list[Block] = []
    problems: list[Problem] = []
    parting = f"{BLOCK_SEPARATOR}(The text up to here is {names[0]}. What follows is {names[1]}.){BLOCK_SEPARATOR}"
    partings = [parting] + [BLOCK_SEPARATOR] * (len(names) - 1)
    for name, document, behind in zip(names, documents, partings, strict=True):
        for number, block in enumerate(document.blocks):
            anchor = Anchor(block.anchor.kind, f"{name} {block.anchor.label}", block.anchor.index)
            head = f"# {name}\n\n" if number == 0 and name != names[0] else ""
            separator = behind if block is document.blocks[-1] else block.separator
            blocks.append(Block(anchor, head + block.text, separator))
        problems += [
            Problem(p.anchor_label and f"{name} {p.anchor_label}", f"{name}: {p.message}") for p in document.problems
        ]
    title = f"{len(documents)} documents"
    is_locked = any(document.is_locked for document in documents)
    return Document(title, ", ".join(names), tuple(blocks), tuple(problems), is_locked)


def _read(
    path: Path, passwords: Sequence[str], on_progress: Callable[[int, int], None], kept: ScanStore | None
) -> Document:
    """Read a file without a password if that will do, else with the one that fits it."""
    attempts = (None, *passwords)
    for password in attempts[:-1]:
        try:
            return read_document(path, password, on_progress, kept)
        except PasswordRequired:
            continue
    return read_document(path, attempts[-1], on_progress, kept)


def distinct(names: Sequence[str]) -> list[str]:
    """The names; those that occur again get a number."""
    seen: Counter[str] = Counter()
    distinct = []
    for name in names:
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return distinct
