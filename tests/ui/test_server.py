"""The guards in front of the page, over its real application."""

import asyncio
import re
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from spec_engine.chat.history import History
from spec_engine.config import ModelRef, Preset
from spec_engine.errors import SpecEngineError
from spec_engine.ui.__main__ import main
from spec_engine.ui.guard import OwnPagesOnly
from spec_engine.ui.logbook import open_log
from spec_engine.ui.server import NUM_PORTS_TRIED, build_app, free_port, is_loopback, reopen_last
from spec_engine.ui.shelf import PresetShelf
from spec_engine.ui.workspace import Workspace
from tests.documents.files import make_pdf, paragraph, show
from tests.ui.fakes import ScriptedEngine

PRESET = Preset("builtin", "Built-in", "", ModelRef("m"), 4096)


@pytest.fixture(scope="module")
def workspace() -> Workspace:
    return Workspace(lambda preset, watch, room: ScriptedEngine("answer"))


@pytest.fixture(scope="module")
def client(workspace: Workspace) -> Iterator[TestClient]:
    app = build_app(workspace, PresetShelf([PRESET]), "127.0.0.1", asyncio.Event())
    with TestClient(app, base_url="http://127.0.0.1:7860") as client:
        yield client


def test_the_page_is_served_and_loads_nothing_from_outside(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    loaded = re.findall(r'(?:src|href)="(https?:)?//([^"]+)', answer.text)
    assert loaded == []
    assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_one_thing_is_named_settings(client: TestClient) -> None:
    assert client.get("/config").json()["footer_links"] == []  # Gradio's own


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", ""])
def test_foreign_names_are_refused(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 400


def test_a_host_that_is_no_name_is_refused(client: TestClient) -> None:
    assert client.get("/", headers={"host": "[::1"}).status_code == 400
    assert client.get("/", headers={"origin": "http://[::1"}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "localhost", "[::1]:7860"])
def test_own_names_are_served(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 200


def test_other_sites_load_no_part_of_the_page_but_may_link_to_it(client: TestClient) -> None:
    foreign = {"sec-fetch-site": "cross-site"}
    assert client.get("/document/at/3", headers={**foreign, "sec-fetch-mode": "no-cors"}).status_code == 403
    assert client.get("/", headers={**foreign, "sec-fetch-mode": "navigate"}).status_code == 200
    assert client.get("/", headers={"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1"])
def test_posts_of_other_sites_are_refused(client: TestClient, origin: str) -> None:
    files = {"files": ("a.txt", b"text")}
    assert client.post("/gradio_api/upload", files=files, headers={"origin": origin}).status_code == 403
    own = client.post("/gradio_api/upload", files=files, headers={"origin": "http://127.0.0.1:7860"})
    assert own.status_code == 200


def upload_event(client: TestClient, upload: dict[str, object], number: int = 0) -> dict[str, object]:
    """Body of the event that tells of one uploaded file, dropped (0) or to be added (1): the file, and nothing typed
    meanwhile."""
    events = client.get("/config").json()["dependencies"]
    uploads = [event for event in events if any(target[1] == "upload" for target in event["targets"])]
    assert [len(event["inputs"]) for event in uploads] == [2, 3]
    event = uploads[number]
    data = [[upload], *(None for _ in event["inputs"][1:])]
    return {"data": data, "fn_index": event["id"], "session_hash": "x"}


@pytest.mark.parametrize("number", [0, 1], ids=["dropped", "added"])
@pytest.mark.parametrize("door", ["run/predict", "queue/join"])
def test_a_posted_path_opens_no_file_of_the_machine(
    client: TestClient, workspace: Workspace, tmp_path: Path, door: str, number: int
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("A secret that was never uploaded. " * 5)
    upload = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    body = upload_event(client, upload, number)
    assert "secret that" not in client.post(f"/gradio_api/{door}", json=body).text
    time.sleep(0.5)
    assert workspace.opened is None


def test_an_uploaded_file_is_opened(client: TestClient, workspace: Workspace) -> None:
    files = {"files": ("report.txt", b"The report has one sentence. " * 5)}
    (path,) = client.post("/gradio_api/upload", files=files).json()
    upload = {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = upload_event(client, upload)
    assert client.post("/gradio_api/run/predict", json=body).status_code == 200
    deadline = time.monotonic() + 10
    while workspace.opened is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert workspace.opened is not None
    assert workspace.opened.whole.source_name == "report.txt"


@pytest.mark.parametrize("path", ["/etc/passwd", "pyproject.toml", "app.py"])
def test_files_of_the_machine_are_not_served(client: TestClient, path: str) -> None:
    assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/redoc", "/gradio_api/runs", "/monitoring"])
def test_there_is_no_second_door(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in (403, 404)


def test_no_event_can_be_called_by_name(client: TestClient) -> None:
    info = client.get("/gradio_api/info")
    assert info.status_code in (403, 404) or info.json()["named_endpoints"] == {}


@pytest.mark.parametrize(
    ("host", "only_here"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("me.lan", False),
    ],
)
def test_which_addresses_only_this_machine_reaches(host: str, only_here: bool) -> None:
    assert is_loopback(host) == only_here


def test_a_taken_port_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port("127.0.0.1", port) < port + NUM_PORTS_TRIED


def test_an_address_of_another_machine_is_an_error_in_words() -> None:
    with pytest.raises(SpecEngineError, match="--host"):
        free_port("203.0.113.1", 7860)


def test_open_streams_are_let_go_when_the_server_ends() -> None:
    async def stream_forever(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def never_sends() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("nothing sets the event")

    async def ignore(message: Message) -> None:
        pass

    async def run() -> None:
        closing = asyncio.Event()
        guarded = OwnPagesOnly(stream_forever, None, closing)
        running = asyncio.ensure_future(guarded({"type": "http", "headers": []}, never_sends, ignore))
        await asyncio.sleep(0.05)
        assert not running.done()
        closing.set()
        await asyncio.wait_for(running, 1.0)

    with ThreadPoolExecutor(1) as apart:  # a browser test may have left a loop in this thread
        apart.submit(lambda: asyncio.run(run())).result(10)


def test_a_conversation_is_saved_as_markdown_and_json(client: TestClient, workspace: Workspace) -> None:
    store = workspace.talk._store
    conversation = store.begin("Fées & <b>figures</b>?")
    turn = store.add_turn(conversation, None, "Why?", model="m", preset="p")
    store.extend(turn, "So.", [1], [False])
    store.finish(turn, "So.", 1, "stop")
    markdown = client.get(f"/conversations/{conversation}.md")
    assert markdown.status_code == 200
    assert "> Why?\n\nSo." in markdown.text
    assert markdown.headers["content-disposition"] == ("attachment; filename*=UTF-8''F%C3%A9es----b-figures--b.md")
    assert client.get(f"/conversations/{conversation}.json").json()["turns"][0]["answer"] == "So."
    for missing in (f"/conversations/{conversation}.exe", "/conversations/999.md"):
        assert client.get(missing).status_code == 404
    assert client.get(f"/conversations/{conversation}.md", headers={"host": "evil.example"}).status_code == 400


def test_the_last_conversation_is_shown_again(tmp_path: Path) -> None:
    report = tmp_path / "report.txt"
    report.write_text("Some text. " * 50)
    first = Workspace(lambda preset, watch, room: ScriptedEngine("answer"), History(tmp_path / "data"))
    first.switch(PRESET).join(10)
    first.open_documents([report])
    first.ask("What?").join(10)
    first.close()
    lines: list[str] = []
    again = Workspace(lambda preset, watch, room: ScriptedEngine("answer"), History(tmp_path / "data"))
    reopen_last(again, lines.append)
    assert [turn.question for turn in again.turns] == ["What?"]
    again.close()
    for kept in (tmp_path / "data" / "documents").rglob("*.txt"):
        kept.unlink()
    lost = Workspace(lambda preset, watch, room: ScriptedEngine("answer"), History(tmp_path / "data"))
    reopen_last(lost, lines.append)
    assert lost.turns == ()
    assert len(lines) == 1
    assert "could not be opened again" in lines[0]


def test_the_last_conversation_about_a_locked_file_waits_for_its_password(tmp_path: Path) -> None:
    path = tmp_path / "locked.pdf"
    path.write_bytes(make_pdf([show(paragraph(60, 740, ["Some words on a page."]))], password="sesame"))
    first = Workspace(lambda preset, watch, room: ScriptedEngine("answer"), History(tmp_path / "data"))
    first.switch(PRESET).join(10)
    first.open_documents([path], "sesame")
    first.ask("What?").join(10)
    first.close()
    lines: list[str] = []
    again = Workspace(lambda preset, watch, room: ScriptedEngine("answer"), History(tmp_path / "data"))
    reopen_last(again, lines.append)
    assert "The page asks for it." in lines[0]
    again.switch(PRESET).join(10)
    again.unlock("sesame").join(10)
    assert [turn.question for turn in again.turns] == ["What?"]
    assert again.opened is not None
    again.close()


def test_with_a_password_nothing_is_served_without_it(workspace: Workspace) -> None:
    app = build_app(workspace, PresetShelf([PRESET]), "127.0.0.1", asyncio.Event(), "anna:gehéim")
    with TestClient(app, base_url="http://127.0.0.1:7860") as client:
        for path in ("/", "/config", "/conversations/1.md", "/gradio_api/info"):
            refused = client.get(path)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"].startswith("Basic")
        for wrong in ("anna:geheim", "anna:", ":", "otto:gehéim"):
            name, _, password = wrong.partition(":")
            assert client.get("/", auth=(name, password)).status_code == 401
        right = "Basic " + b64encode("anna:gehéim".encode()).decode()
        assert client.get("/", headers={"authorization": right}).status_code == 200
        assert client.get("/", headers={"authorization": right, "host": "evil.example"}).status_code == 400


@pytest.mark.parametrize("login", ["anna", "anna:", ":x"])
def test_a_login_needs_both_parts(login: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--auth", login])
    assert end.value.code == 2


def test_the_log_tells_what_happened_and_nothing_of_what_was_said(tmp_path: Path) -> None:
    path = open_log(tmp_path)
    report = tmp_path / "salaries-of-the-board.txt"
    report.write_text("Everyone earns nothing. " * 50)
    workspace = Workspace(lambda preset, watch, room: ScriptedEngine("a secret answer"))
    workspace.switch(PRESET).join(10)
    workspace.open_documents([report])
    workspace.ask("Who earns most?").join(10)

    def broken(preset: Preset, watch: object, room: object) -> ScriptedEngine:
        raise ZeroDivisionError(report.name)

    unhandled, threading.excepthook = threading.excepthook, lambda failure: None
    try:
        Workspace(broken).switch(PRESET).join(10)
    finally:
        threading.excepthook = unhandled
    log = path.read_text("utf-8")
    assert "started: spec-engine" in log
    assert "load: done in" in log
    assert "answer: prompt" in log
    assert "load: ZeroDivisionError" in log
    assert "test_server.py" in log  # the way that an error came
    for word in ("secret", "earns", "salaries", "Who"):
        assert word not in log
