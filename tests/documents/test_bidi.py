"""Reading order of right-to-left lines from the positions of their glyphs."""

import pytest

from spec_engine.documents.bidi import reading_order

WIDTH = 6.0


def drawn(visual: str, order: list[int] | None = None) -> tuple[str, list[tuple[float, float]]]:
    """Characters as they stand from left to right, handed over in any order."""
    places = [(char, (i * WIDTH, (i + 1) * WIDTH)) for i, char in enumerate(visual)]
    places = [places[i] for i in order or range(len(places))]
    return "".join(char for char, _ in places), [extent for _, extent in places]


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize(
    ("visual", "logical"),
    [
        ("םולש", "שלום"),
        ("םלוע םולש", "שלום עולם"),
        ("הלימו 123 רפסמ", "מספר 123 ומילה"),
        ("בוט ףוס my text הלימ", "מילה my text סוף טוב"),
        ("an םולש word", "an שלום word"),
        (".)ףוס( הלימ", "מילה (סוף)."),
    ],
)
def test_order_follows_positions(visual: str, logical: str, is_reversed: bool) -> None:
    order = list(range(len(visual)))[::-1] if is_reversed else None
    if "(" in visual:
        visual = visual.translate(str.maketrans("()", ")("))  # drawn with the glyph that faces the other way
    assert reading_order(*drawn(visual, order), min_gap=2.0) == logical


def test_gaps_are_spaces_and_spaces_without_width_are_not_trusted() -> None:
    text = "ש ם"
    assert reading_order(text, [(20.0, 26.0), (23.0, 23.0), (10.0, 16.0)], min_gap=2.0) == "ש ם"
    assert reading_order(text, [(20.0, 26.0), (23.0, 23.0), (14.0, 20.0)], min_gap=2.0) == "שם"


def test_marks_stay_on_their_base() -> None:
    extents = [(12.0, 18.0), (13.0, 14.0), (6.0, 12.0), (0.0, 6.0)]
    assert reading_order("ש\u05b8לם", extents, min_gap=2.0) == "ש\u05b8לם"


def test_replacement_text_of_one_glyph_is_turned() -> None:
    assert reading_order("يبيبح", [(0.0, 9.0)] * 5, min_gap=2.0) == "حبيبي"
