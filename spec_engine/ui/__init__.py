"""The page: the only importer of gradio.

Gradio reads its telemetry switch when it is first imported, so it is turned off here, before any module of this package
can import it: the page asks nothing of any machine but the one it runs on.
"""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
