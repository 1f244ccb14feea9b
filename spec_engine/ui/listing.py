"""The list of conversations, and that of a conversation's branches: a line for each.

Job: `lines`, in which documents that would look alike are told apart, and conversations with the same title;
`branch_lines`.
Non-job: finding conversations (`chat.store`).
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from spec_engine.chat.history import DocumentRef
from spec_engine.chat.store import Summary
from spec_engine.ui import text

_MAX_TITLE: Final = 46  # characters of a title in the list …
_MAX_DOCUMENT: Final = 26  # … and of the document's name

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
        alike[_listed_files([name for _, name in files])].append(files)
    names = {
        files: _one_of_several(name, number, since[files]) if len(several) > 1 else name
        for name, several in alike.items()
        for number, files in enumerate(several, 1)
    }
    documents = {one.id: names[ref.files] if (ref := refs[one.id]) else "" for one in kept}
    titles = _titles(kept, documents)
    return [(_line(one, titles[one.id], documents[one.id]), one.id) for one in found if one.id in titles]


def branch_lines(branches: Sequence[tuple[int, str, int | None]]) -> list[str]:
    """The branches, as `ConversationStore.branches` gives them, as they are listed: by their last questions, and
    answers to the same one by number."""
    asked, met = Counter(branch[1:] for branch in branches), Counter[tuple[str, int | None]]()
    lines = []
    for number, (_, question, parent) in enumerate(branches, 1):
        met[question, parent] += 1
        several = text.ANSWER_NUMBER.format(number=met[question, parent]) if asked[question, parent] > 1 else ""
        lines.append(f"{number}: {question}{several}")
    return lines


def _titles(kept: Sequence[Summary], documents: Mapping[int, str]) -> dict[int, str]:
    """Titles by id; of those about one document that would read the same, all but the oldest have a number."""
    numbers: Counter[tuple[str, str]] = Counter()
    titles = {}
    for one in sorted(kept, key=lambda one: (one.created_at, one.id)):
        alike = _numbered(one.title, 1), documents[one.id]
        numbers[alike] += 1
        titles[one.id] = _numbered(one.title, numbers[alike])
    return titles


def _line(one: Summary, title: str, document: str) -> str:
    """Title, and in a line of their own document, answers (other branches' too), when it was last used."""
    day = datetime.fromtimestamp(one.updated_at).astimezone()
    now = datetime.now().astimezone()
    when = f"{day:%H:%M}" if day.date() == now.date() else f"{day:%d %b}" if day.year == now.year else f"{day:%d %b %Y}"
    facts = [document, text.plural(one.num_turns, "answer"), when]
    return f"{title}\n{' · '.join(filter(None, facts))}"


def _listed_files(names: Sequence[str]) -> str:
    """The files of a document in the list of conversations: the first, and how many more."""
    more = f" + {text.plural(len(names) - 1, 'file')}" if len(names) > 1 else ""
    return f"{text.shortened(names[0], _MAX_DOCUMENT)}{more}"


def _numbered(title: str, number: int) -> str:
    """A title in the list of conversations that others have too: the second is the first to be numbered."""
    return text.shortened(title, _MAX_TITLE) if number == 1 else f"{text.shortened(title, _MAX_TITLE - 5)} ({number})"


def _one_of_several(name: str, number: int, since: float) -> str:
    """A document in the list of conversations that has the name of another one, and when it was first asked about."""
    return f"{name}, no. {number}, of {datetime.fromtimestamp(since).astimezone():%d %b %Y %H:%M}"
