"""``python -m spec_engine`` is ``spec-engine``."""

import sys

from spec_engine.cli import main

sys.exit(main())
