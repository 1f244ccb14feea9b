"""What several commands of ``spec-engine`` have in common.

Job: options that name a preset, checks of numbers, progress on stderr. Non-job: the commands (cli.py, cli_train.py).
"""

import argparse
import sys
from dataclasses import replace

from spec_engine.config import Preset, load_preset


def positive(spelling: str) -> int:
    """A count, for argparse."""
    number = int(spelling)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def add_preset(parser: argparse.ArgumentParser) -> None:
    """Options that name a preset and a device."""
    parser.add_argument("--preset", default="builtin", help="name or .toml file (default: %(default)s)")
    parser.add_argument("--model", help="hub id or folder of another target for the preset")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")


def chosen_preset(arguments: argparse.Namespace) -> Preset:
    """The preset that the options name, with another target where one is given."""
    preset = load_preset(arguments.preset)
    if arguments.model:
        preset = replace(preset, target=replace(preset.target, id=arguments.model, revision=None))
    return preset


def progress(line: str) -> None:
    """One line on stderr, at once."""
    print(line, file=sys.stderr, flush=True)
