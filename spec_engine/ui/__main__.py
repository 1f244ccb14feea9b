"""The page from the command line: ``python -m spec_engine.ui``, which is ``spec-engine chat`` and ``python app.py``.

Job: read the arguments, serve the page. Non-job: everything else.
"""

import argparse
import math
import os
import sys
from pathlib import Path

from spec_engine.errors import SpecEngineError
from spec_engine.frozen import freeze_imports
from spec_engine.ui.server import ServeOptions, serve


def main(arguments: list[str] | None = None) -> int:
    """Serve the page until it is interrupted, with the arguments of the process if none are given; 2 when it cannot
    start."""
    if arguments is None:
        freeze_imports()
    usual = ServeOptions()
    parser = argparse.ArgumentParser(description="Chat with a long document on a page in the browser.")
    parser.add_argument("--preset", help="which models to load (default: those of the last time, at first builtin)")
    parser.add_argument("--model", help="hub id or folder of another target for the preset")
    parser.add_argument("--document", type=Path, nargs="+", default=[], help="files to open at the start")
    parser.add_argument("--host", default=usual.host, help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=_port, default=usual.port, help="port (default: %(default)s)")
    parser.add_argument("--device", default=usual.device, help="auto, cpu, cuda:1, cuda:all (default: %(default)s)")
    parser.add_argument("--data-dir", type=Path, help="where conversations are kept (default: the user's data folder)")
    parser.add_argument(
        "--kept-gb",
        type=_gigabytes,
        default=usual.kept_gb,
        help="disk for documents already read (default: %(default)g)",
    )
    parser.add_argument(
        "--auth", metavar="NAME:PASSWORD", help="ask for these; or set SPEC_ENGINE_AUTH, which other users cannot see"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open the browser")
    given = parser.parse_args(arguments)
    login = given.auth or os.environ.get("SPEC_ENGINE_AUTH")
    if login is not None and not all(login.partition(":")):
        parser.error("--auth takes NAME:PASSWORD, both not empty")
    options = ServeOptions(
        preset=given.preset,
        documents=tuple(given.document),
        host=given.host,
        port=given.port,
        opens_browser=not given.no_browser,
        device=given.device,
        model=given.model,
        data_dir=given.data_dir,
        login=login,
        kept_gb=given.kept_gb,
    )
    try:
        serve(options, announce=lambda line: print(line, flush=True))
    except SpecEngineError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _gigabytes(spelling: str) -> float:
    """A size on disk, for argparse."""
    try:
        number = float(spelling)
    except ValueError:
        number = math.nan
    if not 0 <= number < 1e6:
        raise argparse.ArgumentTypeError(f"{spelling} is no size; give a number of GB, 0 to keep nothing")
    return number


def _port(spelling: str) -> int:
    """A port's number, for argparse."""
    try:
        number = int(spelling)
    except ValueError:
        number = 0
    if not 1 <= number <= 65_535:
        raise argparse.ArgumentTypeError(f"{spelling} is no port; give a number from 1 to 65535")
    return number


if __name__ == "__main__":
    sys.exit(main())
