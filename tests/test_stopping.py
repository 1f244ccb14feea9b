"""Stop rules token by token: what is kept, what is shown, and that both agree."""

import itertools

import pytest

from spec_engine.errors import RequestError
from spec_engine.stopping import StopRules, StopScanner

END = 99


class Letters:
    """A token is a piece of text; ``~`` at its end is held back, like half a character, until the next token."""

    def __init__(self, pieces: tuple[str, ...]) -> None:
        self._pieces = pieces
        self._rest = ""

    def push(self, token_id: int) -> str:
        text = self._rest + self._pieces[token_id]
        self._rest = "~" if text.endswith("~") else ""
        return text.removesuffix("~")

    def flush(self) -> str:
        rest, self._rest = self._rest.replace("~", "?"), ""
        return rest


def run(rules: StopRules, pieces: str, blocks: tuple[int, ...]) -> tuple[int, str, str | None]:
    """Feed the pieces (split at ``|``) in blocks; returns tokens kept, the text, and the reason."""
    parts = tuple(pieces.split("|"))
    token_ids = [END if part == "END" else index for index, part in enumerate(parts)]
    scanner = StopScanner(rules, Letters(parts))
    num_kept, text, done = 0, "", 0
    for size in blocks:
        scanned = scanner.scan(token_ids[done : done + size])
        num_kept += len(scanned.text_by_token)
        text += "".join(scanned.text_by_token)
        done += size
        if scanned.stop:
            return num_kept, text, scanned.stop
    return num_kept, text, None


def partitions(total: int) -> list[tuple[int, ...]]:
    """Every way to cut `total` tokens into consecutive blocks."""
    cuts = itertools.product((False, True), repeat=total - 1)
    result = []
    for pattern in cuts:
        blocks, size = [], 1
        for is_cut in pattern:
            if is_cut:
                blocks.append(size)
                size = 1
            else:
                size += 1
        result.append((*blocks, size))
    return result


@pytest.mark.parametrize(
    ("rules", "pieces", "expected"),
    [
        (StopRules(9, frozenset({END})), "a|b|END|c", (3, "ab", "stop")),
        (StopRules(9, frozenset({7, END})), "a|b|c", (3, "abc", None)),
        (StopRules(3), "a|b|c|d", (3, "abc", "length")),
        (StopRules(3, frozenset({END})), "a|b|END|d", (3, "ab", "stop")),
        (StopRules(9, stop_strings=("xyz",)), "ax|y|zb|c", (3, "a", "stop")),
        (StopRules(9, stop_strings=("xyz",)), "ax|y|wb|xy", (4, "axywb", None)),
        (StopRules(4, stop_strings=("xyz",)), "ax|y|wb|xy", (4, "axywbxy", "length")),
        (StopRules(9, stop_strings=("xxy",)), "x|x|x|y", (4, "x", "stop")),
        (StopRules(9, stop_strings=("cd", "bcde")), "ab|c|d|e", (3, "ab", "stop")),
        (StopRules(9, stop_strings=("bcde", "cd")), "ab|cde|f", (2, "a", "stop")),
        (StopRules(9, stop_strings=("n",)), "end now|x", (1, "e", "stop")),
        (StopRules(9, frozenset({END}), ("xyz",)), "ax|y|END", (3, "axy", "stop")),
        (StopRules(2), "a~|b~|c", (2, "a~b?", "length")),
        (StopRules(9, frozenset({END})), "a~|END", (2, "a?", "stop")),
        (StopRules(1), "a|b", (1, "a", "length")),
        (StopRules(2, stop_strings=("b?",)), "a|b~|c", (2, "a", "stop")),
    ],
)
def test_every_cut_into_blocks_gives_the_same_answer(
    rules: StopRules, pieces: str, expected: tuple[int, str, str | None]
) -> None:
    for blocks in partitions(len(pieces.split("|"))):
        num_kept, text, stop = run(rules, pieces, blocks)
        held_back = sum(len(string) for string in rules.stop_strings) if stop is None else 0
        assert (num_kept, stop) == (expected[0], expected[2])
        assert expected[1].startswith(text)
        assert len(expected[1]) - len(text) <= held_back


class Halves(Letters):
    """What is held back is shown as a decoder shows half a character."""

    def flush(self) -> str:
        return super().flush().replace("?", "\ufffd")


@pytest.mark.parametrize(
    ("rules", "expected"), [(StopRules(2), ("ab", "length")), (StopRules(9, frozenset({END})), ("ab\ufffd", "stop"))]
)
def test_of_a_character_that_the_length_cuts_nothing_is_text(rules: StopRules, expected: tuple[str, str]) -> None:
    scanned = StopScanner(rules, Halves(("a", "b~"))).scan([0, 1, END])
    assert ("".join(scanned.text_by_token), scanned.stop) == expected


@pytest.mark.parametrize("max_tokens", [0, -5])
def test_no_length_is_refused(max_tokens: int) -> None:
    with pytest.raises(RequestError, match="max_tokens"):
        StopRules(max_tokens)


def test_empty_stop_string_is_refused() -> None:
    with pytest.raises(RequestError, match="stop string"):
        StopRules(4, stop_strings=("a", ""))


@pytest.mark.parametrize(("rest", "text", "stop"), [("o|p", "", "stop"), ("a|y", "stay", "length")])
def test_what_was_written_before_counts_for_no_length_and_its_held_end_comes_with_what_follows(
    rest: str, text: str, stop: str
) -> None:
    scanner = StopScanner(StopRules(2, stop_strings=("stop",)), Letters(("so ", "st", *rest.split("|"))))
    assert scanner.resume([0, 1]) == "so "
    assert scanner.num_left == 2
    scanned = scanner.scan([2, 3])
    assert ("".join(scanned.text_by_token), scanned.stop) == (text, stop)
