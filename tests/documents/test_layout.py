"""From positioned lines to running text."""

from spec_engine.documents.layout import Line, compose, merge_pieces, order_columns, words

SIZE, PITCH, LETTER = 10.0, 12.0, 5.0


def line(text: str, y: float, x: float = 50.0, size: float = SIZE) -> Line:
    return Line(text, x, x + len(text) * LETTER * size / SIZE, y, size)


def lines(*texts: str, top: float = 700.0, x: float = 50.0) -> list[Line]:
    return [line(text, top - i * PITCH, x) for i, text in enumerate(texts)]


FULL = "a line that fills the whole of its column with words"


def read(pieces: list[Line]) -> str:
    return compose(pieces, words(pieces))


def test_soft_breaks_join_and_forced_breaks_stay() -> None:
    assert read(lines(FULL, FULL, "the end.")) == f"{FULL} {FULL} the end."
    verse = lines("Roses are red,", "Violets are quite blue,", "Sugar is sweet,", "And so are you.")
    assert read(verse).count("\n") == 3


def test_paragraphs_by_gap_indentation_and_short_last_line() -> None:
    gap = lines(FULL, "the end.") + lines(FULL, "stops.", top=660)
    assert read(gap) == f"{FULL} the end.\n\n{FULL} stops."
    indented = [*lines(FULL, FULL[:-1] + "."), line(FULL, 700 - 2 * PITCH, x=65), line(FULL, 700 - 3 * PITCH)]
    assert read(indented) == f"{FULL} {FULL[:-1]}.\n\n{FULL} {FULL}"
    short = lines(FULL, "the end.", "Then " + FULL[:-6], FULL)
    assert read(short) == f"{FULL} the end.\n\nThen {FULL[:-6]} {FULL}"


def test_heading_of_another_size_stands_alone() -> None:
    assert read([line("Heading", 720, size=14), *lines(FULL, "end.")]) == f"Heading\n\n{FULL} end."


def test_list_items_keep_their_lines() -> None:
    items = lines("1. " + FULL[:-3], "2. " + FULL[:-3], "• " + FULL[:-2])
    assert read(items) == "\n".join(item.text for item in items)


def test_hyphens() -> None:
    cut = FULL[:-5] + "docu-"
    assert read(lines(cut, "ments end.")) == FULL[:-5] + "documents end."
    assert "Schwarz-Weiß" in read(lines(FULL[:-7] + "Schwarz-", "Weiß gedruckt."))
    assert "Ein- und Ausgabe" in read(lines(FULL[:-4] + "Ein-", "und Ausgabe."))
    assert "pages 10-20" in read(lines(FULL[:-9] + "pages 10-", "20 here."))


def test_compound_keeps_its_hyphen_when_the_document_writes_it_so() -> None:
    cut = FULL[:-5] + "well-"
    assert "wellknown" in read(lines(cut, "known end."))
    assert "well-known" in compose(lines(cut, "known end."), {"well-known"})
    assert "wellknown" in compose(lines(cut, "known end."), {"well-known", "wellknown"})


def test_small_shifted_figures_become_scripts() -> None:
    base = line("km", 700)
    raised = Line("2", base.x1, base.x1 + 3, 704, 6)
    after = Line("of land", raised.x1 + 3, raised.x1 + 40, 700, SIZE)
    assert [row.text for row in merge_pieces([base, raised, after])] == ["km² of land"]
    lowered = Line("2", base.x1, base.x1 + 3, 698, 6)
    assert merge_pieces([line("H", 700, x=base.x1 - 5), lowered])[0].text == "H₂"
    leading = [Line("1", 50, 53, 704, 6), Line("A note", 53, 90, 700, SIZE)]
    assert merge_pieces(leading)[0].text == "¹A note"
    assert merge_pieces([base, Line("x", base.x1, base.x1 + 3, 704, 6)])[0].text == "kmx"


def test_table_rows_and_contents() -> None:
    rows = [
        piece
        for i, (a, b, c) in enumerate([("Country", "Capital", "People"), ("Austria", "Vienna", "8.9")])
        for piece in (line(a, 700 - 20 * i), line(b, 700 - 20 * i, x=150), line(c, 700 - 20 * i, x=250))
    ]
    assert read(rows) == "Country | Capital | People\nAustria | Vienna | 8.9"
    assert read(lines("1 Foo . . . . . . . . . . . 12", "2 Bar . . . . . . . . . . . 15")) == "1 Foo … 12\n2 Bar … 15"


def test_label_with_a_wide_gap_is_no_table() -> None:
    pieces = [
        p for i in range(2) for p in (line("(a)", 700 - i * PITCH), line("some item text", 700 - i * PITCH, x=90))
    ]
    assert read(pieces) == "(a) some item text\n(a) some item text"


def test_columns_drawn_line_by_line_are_read_one_after_the_other() -> None:
    left = lines(*[f"left column line number {i} of it" for i in range(8)])
    right = lines(*[f"right column line number {i} here" for i in range(8)], x=300)
    mixed = [piece for pair in zip(left, right, strict=True) for piece in pair]
    title = line("A title that spans both of the columns of this page and is long", 730)
    assert order_columns([title, *mixed]) == [title, *left, *right]
    assert order_columns([title, *left, *right]) == [title, *left, *right]


def test_table_of_short_cells_is_not_taken_for_columns() -> None:
    rows = [p for i in range(8) for p in (line(f"item {i}", 700 - i * PITCH), line(f"{i}.50", 700 - i * PITCH, x=300))]
    assert order_columns(rows) == rows


def test_sentence_goes_on_in_the_next_column() -> None:
    left, right = lines(FULL, FULL), lines("and ends here.", x=350)
    assert read([*left, *right]) == f"{FULL} {FULL} and ends here."


def test_nothing() -> None:
    assert compose([], set()) == ""
    assert compose([line("   ", 700)], set()) == ""
