"""The list of conversations: a line for each.

Job: `lines`, in which documents that would look alike are told apart.
Non-job: the words (`text`), finding conversations (`chat.store`).
"""

from collections import defaultdict
from collections.abc import Sequence

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
        alike[text.shortened(DocumentRef(files).name, text.MAX_LISTED_DOCUMENT)].append(files)
    names = {
        files: text.one_of_several(name, number, since[files]) if len(several) > 1 else name
        for name, several in alike.items()
        for number, files in enumerate(several, 1)
    }
    return [(_line(one, names[ref.files] if (ref := refs.get(one.id)) else ""), one.id) for one in found]


def _line(one: Summary, document: str) -> str:
    return text.conversation_line(one.title, document, one.num_turns, one.updated_at)
