"""The page's server in a thread, with a real engine, and the browser's settings."""

import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from spec_engine.config import Preset
from spec_engine.ui.engines import EngineSource
from spec_engine.ui.server import PageServer
from spec_engine.ui.shelf import PresetShelf
from spec_engine.ui.workspace import Workspace

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS: Final = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextmanager
def running_server(presets: Sequence[Preset], port: int = 0) -> Iterator[str]:
    """The address of a fresh server with the first preset loaded, on a port if one is given."""
    workspace = Workspace(EngineSource("cpu"), reads_ahead=True)
    own = tempfile.TemporaryDirectory(prefix="spec-engine-presets-")
    server = PageServer(workspace, PresetShelf(presets, Path(own.name), "cpu", lambda: 10**10))
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        assert workspace.switch(presets[0]).join(120)
        assert workspace.trouble == ""
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        workspace.close()
        thread.join(10)
        own.cleanup()
        assert not thread.is_alive(), "an open page must not keep the server"
