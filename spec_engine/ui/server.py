"""Serves the page to the browsers of this machine.

Job: the application and its server, the port, opening the browser, loading the first engine.
Non-job: the page (`layout`), its events (`handlers`), who is let in (`guard`).

There is no share link, no telemetry and no history of calls.
"""

import asyncio
import ipaddress
import signal
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import gradio as gr
import platformdirs
import uvicorn
from fastapi import FastAPI

from spec_engine.cache.store import PrefixStore
from spec_engine.chat.alone import alone_in
from spec_engine.chat.history import History
from spec_engine.config import Preset, load_preset, preset_names
from spec_engine.documents.read import check_file
from spec_engine.errors import PasswordRequired, PresetError, SpecEngineError
from spec_engine.model.memory import free_on
from spec_engine.ui import text
from spec_engine.ui.engines import EngineSource
from spec_engine.ui.exports import exports_of
from spec_engine.ui.guard import OwnPagesOnly
from spec_engine.ui.layout import build_page
from spec_engine.ui.logbook import open_log
from spec_engine.ui.own_files import forget_uploads, upload_folder
from spec_engine.ui.places import places_of
from spec_engine.ui.shelf import PresetShelf, told_apart
from spec_engine.ui.workspace import Workspace

LOOPBACK_NAMES: Final = frozenset(("127.0.0.1", "localhost", "::1"))
ANY_ADDRESS: Final = ("0.0.0.0", "::")
MAX_FILE_SIZE: Final = "256mb"
NUM_PORTS_TRIED: Final = 50
STYLE: Final = Path(__file__).parent / "style.css"
SCRIPTS: Final = tuple(Path(__file__).parent / name for name in ("theme.js", "keys.js", "kept.js"))
_NO_API_PAGES: Final[dict[str, None]] = {"docs_url": None, "redoc_url": None, "openapi_url": None}
_FONTS: Final = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
_MONO: Final = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How the page is served.

    Attributes:
        preset: name of the preset to load first, or a path ending in ``.toml``; None for the one that was loaded last
            time, at first ``builtin``.
        documents: opened at the start as one, if any.
        host: address to listen on; anything but a loopback address opens the page to the network.
        port: a free one above it is taken when it is in use.
        opens_browser: whether to show the page in the default browser.
        device: as for `load_engine`.
        model: hub id or folder of another target for the preset.
        data_dir: where conversations and their documents are kept; None for the user's data folder of the system.
        login: "name:password" that the browser asks for; None for no password.
        kept_gb: 10^9 bytes of what was computed of documents that are kept on disk at most; 0: nothing is.
    """

    preset: str | None = None
    documents: tuple[Path, ...] = ()
    host: str = "127.0.0.1"
    port: int = 7860
    opens_browser: bool = True
    device: str = "auto"
    model: str | None = None
    data_dir: Path | None = None
    login: str | None = None
    kept_gb: float = 20.0


class PageServer(uvicorn.Server):
    """Serves the guarded page and ends at once when it is told to, also while pages are open.

    `sockets` of `run` may be given, as for any uvicorn server.
    """

    def __init__(
        self,
        workspace: Workspace,
        shelf: PresetShelf,
        host: str = "127.0.0.1",
        port: int = 0,
        login: str | None = None,
    ) -> None:
        self._closing = asyncio.Event()
        app = build_app(workspace, shelf, host, self._closing, login)
        super().__init__(uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=5))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let go of the streams that pages follow, then end as usual."""
        self._closing.set()
        await super().shutdown(sockets)


def build_app(
    workspace: Workspace, shelf: PresetShelf, host: str, closing: asyncio.Event, login: str | None = None
) -> FastAPI:
    """The guarded application; `closing` is set when its server ends, `login` is "name:password"."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(exports_of(workspace))
    app.include_router(places_of(workspace))
    names = LOOPBACK_NAMES | {host} if is_loopback(host) else None
    app.add_middleware(OwnPagesOnly, names=names, closing=closing, login=login)
    upload_folder()  # before Gradio asks where uploads are to arrive
    blocks = build_page(workspace, shelf).queue(default_concurrency_limit=8, max_size=64, api_open=False)
    guarded: FastAPI = gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        app_kwargs=dict(_NO_API_PAGES),
        run_history=False,
        enable_monitoring=False,
        max_file_size=MAX_FILE_SIZE,
        allowed_paths=[],
        footer_links=[],
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        theme=gr.themes.Base(font=_FONTS, font_mono=_MONO),
        css=STYLE.read_text(encoding="utf-8"),
        head="".join(f"<script>{script.read_text(encoding='utf-8')}</script>" for script in SCRIPTS),
        show_error=True,
    )
    blocks.has_launched = True  # mounting leaves it unset, and Gradio then takes any path of the machine for an upload
    return guarded


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(options: ServeOptions, announce: Callable[[str], None]) -> None:
    """Serve the page until the process is interrupted; the first engine loads while the page is already open.

    `announce` is told the address and what the user should know. Raises `PresetError` for an unknown preset,
    `DocumentError` when the document cannot be read, and `StoreError` when another page works with the data folder.
    """
    for path in options.documents:
        check_file(path)  # before anything is made
    presets, named = offered_presets(options, announce)
    data_dir = options.data_dir or default_data_dir()
    with alone_in(data_dir):
        _serve(options, data_dir, presets, named, announce)


def _serve(
    options: ServeOptions,
    data_dir: Path,
    presets: list[Preset],
    named: Preset | None,
    announce: Callable[[str], None],
) -> None:
    """Serve the page with these presets; `named` is the one that was asked for."""
    num_kept_bytes = int(options.kept_gb * 1e9)
    store = PrefixStore(data_dir / "prefixes", num_kept_bytes)
    history = History(data_dir, num_kept_bytes, store.forget)
    history.tidy()
    source = EngineSource(options.device, store if num_kept_bytes else None)
    workspace = Workspace(source, history, reads_ahead=True, on_loaded=lambda preset: shelf.remember(preset))
    shelf = PresetShelf(
        presets, data_dir / "presets", options.device, lambda: _free(options.device, workspace.engine_bytes)
    )
    for problem in shelf.problems:
        announce(problem)
    try:
        announce(f"Conversations are kept in {data_dir}; the log, without their text, is {open_log(data_dir)}")
    except OSError as error:
        announce(f"No log is written: {error}")
    if not options.documents:
        reopen_last(workspace, announce)
    else:
        try:
            workspace.open_documents(options.documents)
        except PasswordRequired as error:
            announce(f"{error} {text.PAGE_ASKS}")
    port = free_port(options.host, options.port)
    if port != options.port:
        announce(f"Port {options.port} is in use; {port} is taken instead.")
    if not is_loopback(options.host):
        announce(text.OPEN_WITH_PASSWORD if options.login else text.OPEN_TO_ALL)
    shown_host = "localhost" if options.host in (*LOOPBACK_NAMES, *ANY_ADDRESS) else options.host
    address = f"http://[{shown_host}]:{port}" if ":" in shown_host else f"http://{shown_host}:{port}"
    server = PageServer(workspace, shelf, options.host, port, options.login)
    builtin = load_preset("builtin")
    workspace.switch(named or shelf[shelf.last or builtin.name], otherwise=None if named else builtin)
    threading.Thread(target=_tell_when_ready, args=(server, address, options, announce), daemon=True).start()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again at its end; files are to go
    try:
        server.run()
    finally:
        workspace.close()
        forget_uploads()


def _free(device: str, num_reclaimable: int) -> int | None:
    """Bytes that models may take, those of the engine in use included; None where the system does not tell."""
    free = free_on(device)
    return None if free is None else free + num_reclaimable


def default_data_dir() -> Path:
    """The user's data folder of this system, for this program."""
    return Path(platformdirs.user_data_dir("spec-engine", appauthor=False))


def reopen_last(workspace: Workspace, announce: Callable[[str], None]) -> None:
    """Show the conversation that was used last, if there is one."""
    kept = workspace.talk.summaries()
    if not kept:
        return
    try:
        workspace.open_conversation(kept[0].id)
    except PasswordRequired as error:
        announce(f"{error} {text.PAGE_ASKS}")
    except SpecEngineError as error:
        announce(f"The last conversation, {kept[0].title!r}, could not be opened again. {error}")


def offered_presets(options: ServeOptions, announce: Callable[[str], None]) -> tuple[list[Preset], Preset | None]:
    """What the page offers, and which of it was asked for. Raises `PresetError`."""
    presets = available_presets(announce)
    if options.preset is None and options.model is None:
        return presets, None
    named = told_apart(load_preset(options.preset or "builtin"), presets)
    if options.model is not None:
        named = replace(named, target=replace(named.target, id=options.model, revision=None))
    presets = [named if preset.name == named.name else preset for preset in presets]
    return (presets if named in presets else [*presets, named]), named


def available_presets(announce: Callable[[str], None]) -> list[Preset]:
    """Every shipped preset that can be read; one that cannot is announced, not hidden."""
    presets = []
    for name in preset_names():
        try:
            presets.append(load_preset(name))
        except PresetError as error:
            announce(str(error))
    return presets


def free_port(host: str, port: int) -> int:
    """`port` if nothing listens there, else the next free one. Raises `SpecEngineError` when none of 50 is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, port + NUM_PORTS_TRIED):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except (OSError, OverflowError):  # in use, or no port number
                continue
            return candidate
    raise SpecEngineError(
        f"No port from {port} to {port + NUM_PORTS_TRIED - 1} can be used on {host}. Give another one with --port, or "
        f"check the address after --host."
    )


def _tell_when_ready(
    server: uvicorn.Server, address: str, options: ServeOptions, announce: Callable[[str], None]
) -> None:
    """Announce the address once the server answers, and open the browser."""
    while not server.started:
        if server.should_exit:
            return
        time.sleep(0.05)
    announce(f"Open {address} (Ctrl+C ends it)")
    if options.opens_browser:
        webbrowser.open(address)
