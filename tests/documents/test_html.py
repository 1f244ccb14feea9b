"""HTML pages."""

import time

import pytest

from spec_engine.documents.anchors import Document
from spec_engine.documents.html import read_html
from spec_engine.errors import UnreadableDocument


def read(page: str | bytes) -> Document:
    return read_html(page.encode() if isinstance(page, str) else page, "a.html", "a")


def test_sections_and_dropped_chrome() -> None:
    document = read(
        """<!doctype html><html><head><title>My
        page</title><script>var x = "no";</script><style>p { }</style></head><body>
        <nav><a>Home</a></nav><div role=navigation>Menu</div><p>Lead.</p>
        <h1>Scope</h1>
        <p>Some <b>bold</b> and&nbsp;<i>italic</i> te<wbr>xt &amp; x<sup>2</sup>, H<sub>2</sub>O.<br>New line</p>
        <h2>Empty</h2><h2>Last <!-- comment -->one</h2><p hidden>secret</p><button>Press</button>tail
        <noscript>Enable scripts</noscript><svg><text>drawn</text></svg></body></html>"""
    )
    assert document.title == "My page"
    assert [block.anchor.label for block in document.blocks] == ["start", "§ Scope", "§ Empty", "§ Last one"]
    assert document.text == (
        "Lead.\n\nScope\n\nSome bold and italic text & x², H₂O.\nNew line\n\nEmpty\n\nLast one\n\ntail"
    )


def test_lists_tables_and_preformatted_text() -> None:
    document = read(
        "<ul><li>one<li><p>two</p><ol start=1><li>a</li><li>b</li></ol></li></ul>"
        "<table><caption>Sums</caption><tr><th>A</th><th>B</th></tr><tr><td><p>1</p><p>2</p></td><td>x</td></tr></table>"
        "<pre>def f():\n    return 1\n</pre><dl><dt>Term<dd>Meaning</dl>"
    )
    assert document.text == (
        "- one\n- two\n  1. a\n  2. b\n\nSums\n\nA | B\n1 2 | x\n\ndef f():\n    return 1\n\nTerm\nMeaning"
    )


def test_layout_table_is_read_as_text() -> None:
    document = read(
        "<table><tr><td><h2>Left</h2><p>a</p></td><td><table><tr><td>x</td><td>y</td></tr></table></td></tr></table>"
    )
    assert document.text == "Left\n\na\n\nx | y"
    assert document.blocks[0].anchor.label == "§ Left"


@pytest.mark.parametrize(
    ("word", "read_as"),
    [
        ('fund<a epub:type="noteref" href="n.xhtml#n1">1</a>.', "fund [1]."),
        ('fund<a role="doc-noteref" href="#n1"><sup>12</sup></a>, then', "fund [12], then"),
        ('fund<sup><a href="#n1">1</a></sup> <sup><a href="#n2">*</a></sup>', "fund [1] [*]"),
        (
            'fund<sup><a href="#c1"><span>[</span>1<span>]</span></a></sup><sup><a href="#c2">[b]</a></sup>.',
            "fund [1] [b].",
        ),
        ('<sup><a href="#r1">1</a></sup> Paid in May.', "[1] Paid in May."),
        ('<a href="#n1"><sup></sup></a>x<sup>2</sup> and 10<sup>-3</sup>', "x² and 10⁻³"),
        ('x<sup><a href="https://example.org/">2</a></sup>', "x²"),
        ('<a epub:type="noteref" href="#n1">See the note</a>', "See the note"),
    ],
)
def test_marks_of_notes_do_not_stick_to_words(word: str, read_as: str) -> None:
    assert read(f"<p>{word}</p>").text == read_as


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ("<meta charset=windows-1251>", "cp1251"),
        ("<meta charset=utf-8>", "cp1251"),  # the statement is wrong, so the letters decide
        ('<meta http-equiv="Content-Type" content="text/html; charset=koi8-r">', "koi8-r"),
        ('<?xml version="1.0" encoding="utf-8"?>', "utf-8"),
        ("<meta charset=latin1>", "utf-8"),
        ("", "utf-8-sig"),
        ("", "utf-16"),
    ],
)
def test_charset(head: str, encoding: str) -> None:
    text = "Быстрая бурая лиса прыгает через ленивую собаку и бежит дальше по лесу."
    document = read(f"{head}<html><body><p>{text}</p></body></html>".encode(encoding))
    assert document.text == text


def test_entity_bomb_and_surrogates() -> None:
    page = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><html><body><p>&b; ok &#xD800;&#0;</p></body></html>'
    text = read(page).text
    assert "ok" in text
    assert len(text) < 40
    text.encode("utf-8")


def test_deep_and_huge_pages_stay_fast() -> None:
    start = time.perf_counter()
    assert read("<div>" * 1_500 + "deep" + "</div>" * 1_500 + "<p>after</p>").text == "deep\n\nafter"
    assert "nested too deeply" in read("<p>before</p>" + "<div>" * 50_000 + "deep").problems[0].message
    with pytest.raises(UnreadableDocument, match="nested too deeply"):
        read("<div>" * 50_000 + "deep")
    huge = read("<p>" + "word " * 2_000_000 + "</p>")
    assert len(huge.text) == 2_000_000 * 5 - 1
    many = read("<table>" + "<tr><td>a</td><td>b</td></tr>" * 20_000 + "</table>")
    assert many.text.count("a | b") == 20_000
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("page", ["<html></html>", "<script>x</script>", "<!-- nothing -->", "   "])
def test_nothing_to_read(page: str) -> None:
    with pytest.raises(UnreadableDocument, match="without any text"):
        read(page)


@pytest.mark.parametrize(
    "mark",
    [
        '<a role="doc-noteref" href="#x"><span aria-hidden="true">1</span></a>',
        '<sup><a href="#x"><span hidden>1</span></a></sup>',
        '<a epub:type="noteref" href="#x"><button>1</button></a>',
    ],
)
def test_a_mark_of_a_note_that_is_hidden_is_nothing(mark: str) -> None:
    assert read(f"<p>The word{mark} stands.</p>").text == "The word stands."
