"""What several commands of ``spec-engine`` have in common.

Job: options that name a preset, checks of numbers, progress on stderr. Non-job: the commands (cli.py, cli_train.py).
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from spec_engine.config import Preset, load_preset
from spec_engine.documents.anchors import Document
from spec_engine.documents.budget import select
from spec_engine.documents.together import read_documents


def positive(spelling: str) -> int:
    """A count, for argparse."""
    number = int(spelling)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def minutes(spelling: str) -> float:
    """A time, for argparse."""
    number = float(spelling)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{spelling} is no time; give minutes, for example 6.5")
    return number


def part_range(spelling: str) -> tuple[int, int]:
    """A range of parts, "3-7" or "3", for argparse."""
    first, dash, last = spelling.partition("-")
    try:
        numbers = int(first), int(last) if dash else int(first)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{spelling!r} is no range of parts; give FIRST-LAST, for example 3-7"
        ) from None
    return numbers


def add_parts(parser: argparse.ArgumentParser) -> None:
    """The option that chooses parts of a document."""
    parser.add_argument(
        "--parts",
        type=part_range,
        metavar="FIRST-LAST",
        help="read these alone; `spec-engine read` shows their numbers",
    )


def chosen_document(paths: Sequence[Path], arguments: argparse.Namespace) -> Document:
    """The files as one document, or the parts of it that the options name. Raises `DocumentError`."""
    document = read_documents(paths, [arguments.password] if arguments.password is not None else [])
    if arguments.parts is None:
        return document
    first, last = arguments.parts
    return select(document, first - 1, last - 1)


def add_preset(parser: argparse.ArgumentParser) -> None:
    """Options that name a preset and a device."""
    parser.add_argument("--preset", default="builtin", help="name or .toml file (default: %(default)s)")
    parser.add_argument("--model", help="hub id or folder of another target for the preset")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda:1, cuda:all (default: %(default)s)")


def chosen_preset(arguments: argparse.Namespace) -> Preset:
    """The preset that the options name, with another target where one is given."""
    preset = load_preset(arguments.preset)
    if arguments.model:
        preset = replace(preset, target=replace(preset.target, id=arguments.model, revision=None))
    return preset


def progress(line: str) -> None:
    """One line on stderr, at once."""
    print(line, file=sys.stderr, flush=True)
