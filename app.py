"""Opens the page: ``python app.py [--preset NAME] [--document FILE] [--host ADDRESS] [--port N] [--no-browser]``.

Job: be the file that one starts. Non-job: everything; the arguments are read in ``spec_engine/ui/__main__.py``.
"""

import sys

from spec_engine.__main__ import run

if __name__ == "__main__":
    sys.exit(run("spec_engine.ui.__main__"))
