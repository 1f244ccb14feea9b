"""A conversation as a file to keep or to give away.

Job: Markdown for people, JSON for programs; both name the document, its parts that were looked at, and the figures.
Non-job: where a conversation comes from (`store`), writing files.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from spec_engine.chat.figures import figures_of
from spec_engine.chat.markup import escaped
from spec_engine.chat.store import StoredTurn

FORMAT: Final = 1  # of the JSON; raised when a key changes its meaning
_REASONS: Final = {
    "length": "reached the length limit",
    "cancelled": "stopped",
    "failed": "broken off by an error",
    "interrupted": "broken off, the program ended",
    "writing": "still being written",
}


def to_markdown(title: str, document: str, turns: Sequence[StoredTurn], num_other_branches: int = 0) -> str:
    """The conversation with its questions as quotations. `document` is the file's name, "" without one; branches that
    are not in `turns` are mentioned."""
    told = [text for turn in turns for text in (turn.question, turn.answer.strip(), footer(turn))]
    title, document, *told = escaped([title, document, *told])
    parts = [f"# {title}"]
    if document:
        parts.append(f"About: {document}")
    for question, answer, figures in zip(told[::3], told[1::3], told[2::3], strict=True):
        quoted = question.replace("\n", "\n> ")
        parts += [f"> {quoted}", answer, f"*{figures}*"]
    if num_other_branches:
        are = (
            "other branch of this conversation is"
            if num_other_branches == 1
            else "other branches of this conversation are"
        )
        parts.append(f"*{num_other_branches} {are} not in this file: choose the branch, then save again.*")
    return "\n\n".join(parts) + "\n"


def to_json(title: str, document: str, turns: Sequence[StoredTurn], num_other_branches: int = 0) -> str:
    """The conversation with everything that is known of it, token ids included."""
    table = {
        "format": FORMAT,
        "title": title,
        "document": document,
        "num_other_branches": num_other_branches,
        "turns": [
            {
                "question": turn.question,
                "answer": turn.answer,
                "model": turn.model,
                "preset": turn.preset,
                "reason": turn.reason,
                "created_at": datetime.fromtimestamp(turn.created_at, UTC).isoformat(timespec="seconds"),
                "token_ids": list(turn.token_ids),
                "is_drafted": [int(flag) for flag in turn.is_drafted],
                **turn.details,
            }
            for turn in turns
        ],
    }
    return json.dumps(table, ensure_ascii=False, indent=1) + "\n"


def footer(turn: StoredTurn) -> str:
    """What is known of an answer, in a line: tokens, speed, gain, how it ended, where the drafter was sent."""
    figures = figures_of(turn)
    num_tokens = figures.num_tokens if figures else len(turn.token_ids)
    parts = [f"{num_tokens:,} token{'' if num_tokens == 1 else 's'}"]
    if figures:
        rate = figures.tokens_per_second
        parts.append(f"{rate:,.0f} tokens/s" if rate >= 100 else f"{rate:.1f} tokens/s")
        if figures.gain is not None:
            where = " in the race" if figures.is_raced else ""
            parts.append(f"{figures.gain:.1f} × plain decoding{where}")
        if figures.num_draft_tokens:
            parts.append(f"{figures.mean_acceptance_length:.1f} tokens a pass")
        if figures.num_reused_tokens:
            new = figures.num_prompt_tokens - figures.num_reused_tokens
            parts.append(f"reused {figures.num_reused_tokens:,} · new {new:,}")
    if turn.reason in _REASONS:
        parts.append(_REASONS[turn.reason])
    if read := turn.details.get("read"):
        parts.append(f"read {read}")
    looked_at = turn.details.get("looked_at")
    if isinstance(looked_at, list) and looked_at:
        parts.append(f"looked at {', '.join(str(label) for label in looked_at)}")
    return " · ".join(parts)
