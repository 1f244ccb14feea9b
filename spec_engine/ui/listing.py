"""The list of conversations: a line for each.

Job: `lines`, in which documents that would look alike are told apart, and conversations with the same title.
Non-job: the words (`text`), finding conversations (`chat.store`).
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from spec_engine.chat.history import DocumentRef
from spec_engine.chat.store import Summary
from spec_engine.ui import text

_Files = tuple[tuple[str, str], ...]


def lines(found: Sequence[Summary], kept: Sequence[Summary]) -> list[tuple[str, int]]:
    """Line and id of those that were `found` of all that are `kept`."""
    refs = {one.id: DocumentRef.load(one.document) for one in kept}
    since: dict[_Files, float] = {}  # when a document was first talked about
    for one in sorted(kept, key=lambda one: (one.created_at, one.id)):
        if ref := refs[one.id]:
            since.setdefault(ref.files, one.created_at)
    alike: defaultdict[str, list[_Files]] = defaultdict(list)  # in that order
    for files in since:
        alike[text.listed_files([name for _, name in files])].append(files)
    names = {
        files: text.one_of_several(name, number, since[files]) if len(several) > 1 else name
        for name, several in alike.items()
        for number, files in enumerate(several, 1)
    }
    documents = {one.id: names[ref.files] if (ref := refs[one.id]) else "" for one in kept}
    titles = _titles(kept, documents)
    return [(_line(one, titles[one.id], documents[one.id]), one.id) for one in found if one.id in titles]


def _titles(kept: Sequence[Summary], documents: Mapping[int, str]) -> dict[int, str]:
    """Titles by id; of those about one document that would read the same, all but the oldest have a number."""
    numbers: Counter[tuple[str, str]] = Counter()
    titles = {}
    for one in sorted(kept, key=lambda one: (one.created_at, one.id)):
        alike = text.numbered(one.title, 1), documents[one.id]
        numbers[alike] += 1
        titles[one.id] = text.numbered(one.title, numbers[alike])
    return titles


def _line(one: Summary, title: str, document: str) -> str:
    return text.conversation_line(title, document, one.num_turns, one.updated_at)
