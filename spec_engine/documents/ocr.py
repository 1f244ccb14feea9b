"""Text from the picture of a page: optical character recognition by rapidocr, the extra `[ocr]`.

Job: find out whether it is installed, start it on the models of its wheel, turn a page that lies on its side or on its
head, say what stands where. Non-job: the order of lines (`ocr_lines`), which pages are read so (`pdf`).

Nothing is downloaded and nothing is sent: the models are named by their files, and a missing one is an error. How many
threads there are may change the last bits of the arithmetic, so a letter on the brink may differ between machines; one
thread and two gave the same lines of nine pages. On one machine a picture gives the same text every time.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from spec_engine.documents.layout import Line
from spec_engine.documents.ocr_lines import Found, Gap, reading_lines
from spec_engine.errors import MissingDependency

INSTALL: Final = "pip install -e '.[ocr]'"
MAX_PIXELS: Final = 4_000_000
"""Of a picture that is read: an A4 page at 210 dots an inch. It keeps a page below about a gigabyte of memory."""

RULES: Final = 1
"""Raised whenever one picture comes to other lines: here, in `ocr_lines`, or by how `pdf_scans` draws it."""

Pixels = npt.NDArray[Any]

_MODELS: Final = {
    "Det": "PP-OCRv6_det_small.onnx",
    "Cls": "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
    "Rec": "PP-OCRv6_rec_small.onnx",
}
_MAX_THREADS: Final = 4
_MAX_SIDE: Final = 4_000
_NUM_SAMPLES: Final = 15
_SURE: Final = 0.85  # upright pages are above 0.9, however bad the scan; turned ones below 0.75
_MIN_LETTERS: Final = 4  # fewer come from specks and ornaments
_MAX_READINGS: Final = 3


def is_installed() -> bool:
    """Whether the packages of the extra are there; they may still not load."""
    return all(find_spec(package) is not None for package in ("rapidocr", "onnxruntime"))


def version() -> str | None:
    """Of what a page's text depends on; None where it cannot be told.

    The packages that do its arithmetic are not meant: they change letters on the brink alone, and a text that stays the
    same is worth more.
    """
    try:
        return f"{version_of('rapidocr')}-{RULES}"
    except PackageNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class _Reading:
    """A page as it was read once, and how sure the engine is of a letter, from 0 to 1."""

    found: list[Found]
    confidence: float

    @property
    def is_aside(self) -> bool:
        """Whether most of it runs up or down."""
        num_aside = sum(len(one.text) for one in self.found if one.is_tall)
        return 2 * num_aside > sum(len(one.text) for one in self.found)

    @property
    def is_doubtful(self) -> bool:
        """Whether the page may lie on its side or on its head."""
        return bool(self.found) and (self.is_aside or self.confidence < _SURE)


class Reader:
    """Reads pictures of pages, one after the other.

    Turned pages come together, so a page is tried first as the one before it lay. A line that reads well is upright;
    only where letters are in doubt, or run up and down, is the page tried another way too.
    """

    def __init__(self) -> None:
        """Load the models, which takes about a second. Raises `MissingDependency` when they cannot be used."""
        try:
            import cv2
            import rapidocr
            from rapidocr.inference_engine.onnxruntime.main import ONNXRuntimeError
        except (ImportError, OSError) as error:
            raise MissingDependency(f"OCR cannot be used: {error}. Run here: {INSTALL}") from error
        self._engine: Any = rapidocr.RapidOCR(params=_parameters(Path(rapidocr.__file__).parent / "models"))
        self._failures = (cv2.error, ONNXRuntimeError, MemoryError)
        self._num_turns = 0

    def read(self, picture: Image.Image) -> tuple[Line, ...] | None:
        """The lines of a page in reading order, in pixels; None when the engine breaks down over it."""
        pixels = np.asarray(picture.convert("RGB"))[:, :, ::-1]
        try:
            return reading_lines(self._upright(pixels))
        except self._failures:
            return None

    def _upright(self, pixels: Pixels) -> list[Found]:
        """What is found once the page is turned as its lines want it; of several readings the surest."""
        tried: dict[int, _Reading] = {}
        num_turns = self._num_turns
        while num_turns not in tried and len(tried) < _MAX_READINGS:
            turned = np.ascontiguousarray(np.rot90(pixels, num_turns))
            tried[num_turns] = reading = self._recognise(turned)
            if not reading.is_doubtful:
                break
            num_turns = (num_turns + self._turns_wanted(turned, reading)) % 4
        best = max(tried, key=lambda turns: (not tried[turns].is_aside, tried[turns].confidence))
        if not tried[best].is_doubtful:
            self._num_turns = best
        return tried[best].found

    def _recognise(self, pixels: Pixels) -> "_Reading":
        result = self._engine(pixels, use_det=True, use_cls=False, use_rec=True, return_word_box=True)
        if result.boxes is None or sum(map(str.isalnum, "".join(result.txts))) < _MIN_LETTERS:
            return _Reading([], 0.0)
        words = result.word_results if len(result.word_results) == len(result.txts) else [()] * len(result.txts)
        found = [_found(*one) for one in zip(result.txts, result.boxes, words, strict=True)]
        sure = sum(len(text) * float(score) for text, score in zip(result.txts, result.scores, strict=True))
        return _Reading(found, sure / max(1, sum(map(len, result.txts))))

    def _turns_wanted(self, pixels: Pixels, reading: "_Reading") -> int:
        """By how many more right angles, against the clock, the picture seems to have to be turned."""
        lines = [one for one in reading.found if one.is_tall == reading.is_aside]
        longest = sorted(lines, key=lambda one: -max(one.width, one.height))[:_NUM_SAMPLES]
        num_down = sum(self._is_on_its_head(_cut_out(pixels, one, int(reading.is_aside))) for one in longest)
        return int(reading.is_aside) + 2 * int(2 * num_down > len(longest))

    def _is_on_its_head(self, line: Pixels) -> bool:
        result = self._engine(line, use_det=False, use_cls=True, use_rec=False)
        label, score = result.cls_res[0]
        return str(label) == "180" and float(score) > 0.5


def _parameters(folder: Path) -> dict[str, Any]:
    """Settings of the engine. Raises `MissingDependency` when a model is not in the wheel."""
    missing = [name for name in _MODELS.values() if not (folder / name).is_file()]
    if missing:
        raise MissingDependency(f"OCR cannot be used: {missing[0]} is missing in {folder}. Run here: {INSTALL}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        **{f"{part}.model_path": str(folder / name) for part, name in _MODELS.items()},
        "Global.log_level": "critical",  # a page without text is no warning
        "Global.max_side_len": _MAX_SIDE,
        "EngineConfig.onnxruntime.intra_op_num_threads": min(_MAX_THREADS, cores),
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }


def _found(text: str, box: Pixels, words: Sequence[Any]) -> Found:
    """A line, with the gaps between its words where the engine tells them."""
    top_left, top_right, bottom_right, bottom_left = ((float(x), float(y)) for x, y in box)
    start, length = top_left[0], max(1.0, top_right[0] - top_left[0])
    gaps: list[Gap] = []
    index = 0
    end = start
    for word, _, corners in words:
        if corners is None or (index := text.find(word, index)) < 0:
            break
        if index > 0:
            gaps.append(Gap(index, (end - start) / length, (float(corners[0][0]) - start) / length))
        index, end = index + len(word), float(corners[1][0])
    return Found(text, (top_left, top_right, bottom_right, bottom_left), tuple(gaps))


def _cut_out(pixels: Pixels, found: Found, num_turns: int) -> Pixels:
    """The line's part of the picture, turned against the clock."""
    xs, ys = ([max(0, int(corner[i])) for corner in found.corners] for i in (0, 1))
    part = pixels[min(ys) : max(ys) + 1, min(xs) : max(xs) + 1]
    return np.ascontiguousarray(np.rot90(part, num_turns))
