"""Names that a file or a sender gives, as they may be shown.

Job: one line without what would steer a terminal or turn the direction of what stands around it.
Non-job: paths (a name is shown, never opened).
"""

import re
from typing import Final

_CONTROLS: Final = re.compile("[\x00-\x20\x7f-\x9f\u2028\u2029]+")
_DIRECTIONS: Final = re.compile("[\u202a-\u202e\u2066-\u2069]")


def shown_name(raw: str) -> str:
    """`raw` on one line, without control characters."""
    return _CONTROLS.sub(" ", _DIRECTIONS.sub("", raw)).encode("utf-8", "replace").decode().strip()
