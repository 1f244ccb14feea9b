"""What a draft model knows of a sentence far back: the needle test (SpecExtend, arXiv 2505.20776, table 1).

Job: hide a made-up sentence in a text, have the target quote it, and count how often the draft model's likeliest token
is the right one on the needle's tokens, under three views of the context: all of it (``full``), only the newest tokens
(``recent``), and what retrieval chooses (``retrieval``).
Non-job: speed (run.py), trees: here the draft guesses one token, and never decides anything.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Literal, get_args

from spec_engine.bench.alongside import Known, alongside
from spec_engine.bench.tasks import as_document, cut_to_tokens, sentences
from spec_engine.chat.prompt import build
from spec_engine.config import Preset, RetrievalConfig
from spec_engine.drafters.base import Drafter, DrafterContext
from spec_engine.drafters.lm import build as build_lm
from spec_engine.engine import Engine, Request, StopRules
from spec_engine.errors import RequestError
from spec_engine.events import Finished
from spec_engine.sampling import SamplingParams

View = Literal["full", "recent", "retrieval"]
_PLACES = ("Norwich", "Toledo", "Ankara", "Quito", "Perth", "Lahore", "Tampere", "Windhoek", "Busan", "Galway")
_THINGS = ("harbour", "archive", "railway", "observatory", "brewery", "orchard", "lighthouse", "foundry", "quarry")
_VALUES = ("copper", "amber", "willow", "saffron", "granite", "cobalt", "juniper", "velvet", "marble", "hazel")
_MAX_TOKENS = 80


@dataclass(frozen=True, slots=True)
class NeedleRow:
    """Needle tokens at one document length (tokens) under one view. `num_quoted` of `num_needles` were answered."""

    length: int
    view: View
    num_needles: int = 0
    num_quoted: int = 0
    num_tokens: int = 0
    num_right: int = 0

    @property
    def accuracy(self) -> float:
        """Share of needle tokens that the draft knew."""
        return self.num_right / max(1, self.num_tokens)


@dataclass(frozen=True, slots=True)
class Needle:
    """A sentence that no text holds: what is asked about it, and the part that only it can tell."""

    sentence: str
    question: str
    secret: str


def make_needle(dice: random.Random) -> Needle:
    """A random needle."""
    key = f"the {dice.choice(_THINGS)} in {dice.choice(_PLACES)}"
    secret = " ".join(dice.sample(_VALUES, 3)) + f" {dice.randint(1000, 9999)}"
    return Needle(
        f"The secret password of {key} is {secret}.", f'Continue the text after "The secret password of {key}"', secret
    )


def hide(needle: Needle, text: str, dice: random.Random) -> str:
    """`text` with the needle between two of its sentences, in its first half."""
    parts = sentences(text)
    before = dice.choice(parts[1 : max(2, len(parts) // 2)])
    return text.replace(before, f"{needle.sentence} {before}", 1)


def measure_needles(
    engine: Engine, texts: Sequence[str], lengths: Sequence[int], num_needles: int, tell: Callable[[str], None]
) -> list[NeedleRow]:
    """`num_needles` at each length, one a text. Raises `RequestError` when the preset has no draft language model.

    `engine` decodes plainly. Needles that the target does not quote are counted, and their tokens left out.
    """
    preset = engine.preset
    if preset is None or preset.draft.model is None or preset.draft.model_kind != "lm":
        raise RequestError("The needle test asks a draft language model. Choose a preset with a [draft.model].")
    drafters = {view: _drafter(preset, engine, view) for view in get_args(View)}
    rows: list[NeedleRow] = []
    for length in lengths:
        sums = {view: NeedleRow(length, view) for view in drafters}
        cut = (cut_to_tokens(text, length - 60, lambda part: len(engine.tokenizer.encode(part))) for text in texts)
        for number, part in enumerate(islice((part for part in cut if part), num_needles)):
            dice = random.Random(number)
            needle = make_needle(dice)
            document = as_document(hide(needle, part, dice))
            prompt = tuple(build(engine.tokenizer, document, (), needle.question, preset.instruction))
            sums = _count(engine, drafters, prompt, needle, sums)
        rows += [row for row in sums.values() if row.num_needles]
        tell(", ".join(f"{length} {row.view} {row.accuracy:.3f}" for row in sums.values()))
    return rows


def needle_json(rows: Sequence[NeedleRow]) -> str:
    """The rows with their accuracy written out."""
    return json.dumps([{**asdict(row), "accuracy": round(row.accuracy, 4)} for row in rows], indent=1)


def _drafter(preset: Preset, engine: Engine, view: View) -> Drafter:
    retrieval = replace(preset.draft.retrieval, enabled=view != "full")
    tree = replace(preset.draft.tree, policy="chain", num_nodes=1, max_depth=1)
    changed = replace(preset, draft=replace(preset.draft, retrieval=retrieval, tree=tree))
    return build_lm(DrafterContext(changed, engine.target, engine.device))


def _count(
    engine: Engine, drafters: dict[View, Drafter], prompt: tuple[int, ...], needle: Needle, sums: dict[View, NeedleRow]
) -> dict[View, NeedleRow]:
    """Let the target answer, then every draft guess along the answer."""
    stop = StopRules(_MAX_TOKENS, engine.tokenizer.stop_token_ids)
    *_, finished = engine.generate(Request(prompt, SamplingParams(), stop))
    assert isinstance(finished, Finished), "every answer ends with Finished"
    is_quoted = needle.secret in " ".join(finished.text.split())
    known = Known(prompt, finished.token_ids, SamplingParams())
    assert engine.preset is not None, "measure_needles has checked it"
    positions = _secret_positions(engine, finished.token_ids, needle) if is_quoted else range(0)
    counted = {}
    for view, row in sums.items():
        retrieval = replace(engine.preset.draft.retrieval, enabled=view == "retrieval")
        right = _guesses(engine, drafters[view], known, retrieval) if is_quoted else []
        counted[view] = replace(
            row,
            num_needles=row.num_needles + 1,
            num_quoted=row.num_quoted + is_quoted,
            num_tokens=row.num_tokens + len(positions),
            num_right=row.num_right + sum(right[position] for position in positions),
        )
    return counted


def _secret_positions(engine: Engine, answer: Sequence[int], needle: Needle) -> range:
    """The tokens of the answer that spell the secret."""
    decode = engine.tokenizer.decode
    text = [" ".join(decode(answer[:end]).split()) for end in range(len(answer) + 1)]
    last = next(end for end in range(len(text)) if needle.secret in text[end])
    first = max(end for end in range(last) if needle.secret in " ".join(decode(answer[end:last]).split()))
    return range(first, last)


def _guesses(engine: Engine, drafter: Drafter, known: Known, retrieval: RetrievalConfig) -> list[bool]:
    """For each token of the answer whether the draft's likeliest token was it, the answer so far being given."""
    steps = alongside(engine.target, drafter, known, retrieval)
    return [session.propose(root, 1).token_ids[1:] == (following[0],) for session, root, following in steps]
