"""Text can be read in both colour schemes: contrast of WCAG 2.2, level AA."""

import re

import pytest

from spec_engine.ui.server import STYLE

SCHEMES = re.findall(r"\{\s*((?:--se-[\w-]+:[^;]+;\s*)+)\}", STYLE.read_text("utf-8"))
PAIRS = [
    ("ink", "bg"),
    ("ink", "pane"),
    ("ink", "sunken"),
    ("quiet", "bg"),
    ("quiet", "pane"),
    ("accent", "pane"),
    ("accent", "accent-soft"),
    ("drafted", "drafted-soft"),
    ("target", "target-soft"),
    ("bad", "bad-soft"),
]


def colours(scheme: str) -> dict[str, str]:
    return dict(re.findall(r"--se-([\w-]+): (#[0-9a-f]{6});", scheme))


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_both_schemes_are_there() -> None:
    assert len([scheme for scheme in SCHEMES if "ink" in colours(scheme)]) == 2


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if "--se-ink" in scheme], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), PAIRS)
def test_text_stands_out_from_its_ground(scheme: str, text: str, ground: str) -> None:
    known = colours(scheme)
    bright, dark = sorted((luminance(known[text]), luminance(known[ground])), reverse=True)
    assert (bright + 0.05) / (dark + 0.05) >= 4.5
