"""Conversations as files: ``/conversations/12.md`` and ``.json``.

Job: the two addresses. Non-job: the files' content (`chat.export`), who may ask (`guard`).
"""

from dataclasses import replace
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Response

from spec_engine.chat.export import to_json, to_markdown
from spec_engine.chat.history import DocumentRef
from spec_engine.errors import StoreError
from spec_engine.ui.workspace import Workspace

_KINDS = {"md": (to_markdown, "text/markdown"), "json": (to_json, "application/json")}


def exports_of(workspace: Workspace) -> APIRouter:
    """The addresses of a workspace's conversations."""
    router = APIRouter()

    @router.get("/conversations/{conversation}.{kind}", include_in_schema=False)
    def export(conversation: int, kind: str) -> Response:
        """The branch that is shown, as a file to save."""
        if kind not in _KINDS:
            raise HTTPException(404, "Conversations are saved as .md or .json.")
        write, media_type = _KINDS[kind]
        try:
            summary = workspace.talk.summary(conversation)
            turns = workspace.talk.turns_of(conversation)
            num_branches = len(workspace.talk.branches_of(conversation))
        except StoreError as error:
            raise HTTPException(404, str(error)) from error
        ref = DocumentRef.load(summary.document)
        job = workspace.active_job
        if job and job.kind == "answer" and conversation == workspace.talk.conversation and turns:
            turns[-1] = replace(turns[-1], reason="writing")
        content = write(summary.title, ref.name if ref else "", turns, max(0, num_branches - 1))
        name = quote("".join(letter if letter.isalnum() else "-" for letter in summary.title)[:60].strip("-") or "chat")
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{name}.{kind}"}
        return Response(content, media_type=f"{media_type}; charset=utf-8", headers=headers)

    return router
