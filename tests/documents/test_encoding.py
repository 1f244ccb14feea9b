"""Bytes to text."""

import os
import time

import pytest

from spec_engine.documents.encoding import decode
from spec_engine.errors import UnreadableDocument

RUSSIAN = "Быстрая бурая лиса прыгает через ленивую собаку. " * 8
JAPANESE = "これは日本語の文章です。文字コードを推定します。" * 8
POLISH = "Zażółć gęślą jaźń. Wszyscy ludzie rodzą się wolni i równi pod względem godności. " * 8
TURKISH = (
    "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler ve birbirlerine "
    "karşı kardeşlik zihniyeti ile hareket etmelidirler. "
)
GERMAN = "Alle Menschen sind frei und gleich an Würde und Rechten. Grüße, Öl, Straße, Brüderlichkeit. " * 40
CZECH = "Příliš žluťoučký kůň úpěl ďábelské ódy. Všichni lidé rodí se svobodní. " * 12


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("text", ["Café, naïve – “quoted” €", "plain ascii text\nof two lines\n"])
def test_unicode_forms_with_and_without_mark(text: str, encoding: str) -> None:
    decoded = decode(text.encode(encoding), "a.txt")
    assert decoded.text == text
    assert decoded.problems == ()


def test_byte_order_marks_of_the_other_order() -> None:
    assert decode(b"\xfe\xff" + "Ünï".encode("utf-16-be"), "a.txt").text == "Ünï"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Grüße aus München", "cp1252"),
        ("It’s “naïve” – he said…", "cp1252"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        (POLISH, "cp1250"),
        (CZECH, "cp1250"),
        (TURKISH, "cp1254"),
        (GERMAN, "cp1252"),
        ("¿Qué? Los niños nacen libres e iguales en dignidad y derechos, dotados como están de razón.", "cp1252"),
    ],
)
def test_guessed_encodings_are_right_and_reported(text: str, encoding: str) -> None:
    decoded = decode(text.encode(encoding), "a.txt")
    assert decoded.text == text
    assert "does not state its encoding" in decoded.problems[0].message


def test_stated_encoding_is_believed_when_it_decodes() -> None:
    assert decode("Añb".encode("iso-8859-15"), "a", "iso-8859-15").text == "Añb"
    assert decode("日本".encode("iso2022_jp"), "a", "iso-2022-jp").text == "日本"
    assert decode("ñandú".encode(), "a", "iso-8859-1").text == "ñandú"
    assert decode(b"plain", "a", "no-such-thing").text == "plain"
    assert decode(b"plain", "a", "hex").text == "plain"


def test_damaged_utf8_stays_utf8() -> None:
    data = ("Füchse und Bären " * 50).encode()
    decoded = decode(data[:100] + b"\xff" + data[100:] + "ü".encode()[:1], "a.txt")
    assert "Bären" in decoded.text
    assert decoded.problems[0].message == "2 characters are damaged and show as \ufffd"
    assert decode("a \ufffd b".encode(), "a").problems == ()


def test_a_few_null_bytes_are_left_out_and_reported() -> None:
    decoded = decode(b"name\0value of it\n" * 3, "a.txt")
    assert decoded.problems[0].message == "3 control characters were left out"
    assert decode(b"name\0value of it\n", "a.txt").problems[0].message == "1 control character was left out"


def test_halves_of_pairs_make_no_other_encoding_of_a_text() -> None:
    decoded = decode("café ".encode() + b"\xed\xa0\x80 is open", "a.txt")
    assert decoded.text.startswith("café \ufffd")
    assert "damaged" in decoded.problems[0].message


@pytest.mark.parametrize("data", [bytes(1_000), os.urandom(50_000), b"\x00\x01text" * 50, bytes(range(256)) * 20])
def test_binary_junk_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadableDocument, match="binary data"):
        decode(data, "a.bin")


def test_large_file_of_unknown_encoding_is_fast() -> None:
    data = ("a plain line of text\n" * 50_000 + "Grüße aus München und Köln\n" * 20_000).encode("cp1252")
    start = time.perf_counter()
    assert decode(data, "a.txt").text.endswith("Grüße aus München und Köln\n")
    assert decode("déjà vu et naïveté ".encode("cp1252") * 300_000, "a.txt").text.endswith("naïveté ")
    assert time.perf_counter() - start < 10
