"""Names that a file or a sender gives, as they may be shown.

Job: `shown_name`, one line without what would steer a terminal or turn the direction of what stands around it;
`not_read`, what is told of attached files.
Non-job: paths (a name is shown, never opened).
"""

import re
from collections.abc import Sequence
from typing import Final

_CONTROLS: Final = re.compile("[\x00-\x20\x7f-\x9f\u2028\u2029]+")
_DIRECTIONS: Final = re.compile("[\u202a-\u202e\u2066-\u2069]")
_MAX_NAMED: Final = 20


def shown_name(raw: str) -> str:
    """`raw` on one line, without control characters."""
    return _CONTROLS.sub(" ", _DIRECTIONS.sub("", raw)).encode("utf-8", "replace").decode().strip()


def not_read(names: Sequence[str], where: str = "") -> str:
    """That files of these names, one at least, hang on a document (" to p. 3") and were not read."""
    if len(names) == 1:
        return f"{names[0]} is attached{where} and was not read; save it and add it as a file of its own"
    num_more = len(names) - _MAX_NAMED
    first, last = (names[:_MAX_NAMED], f"{num_more} more") if num_more > 0 else (names[:-1], names[-1])
    told = f"{', '.join(first)} and {last} are attached{where} and were not read"
    return f"{told}; save them and add each as a file of its own"
