"""One suite over every registered drafter: what `drafters/base.py` promises.

A new drafter runs it by being in the registry.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spec_engine.config import DrafterKind, RetrievalConfig, TreeConfig
from spec_engine.drafters import DRAFTERS, available_drafters, max_draft_nodes
from spec_engine.drafters.base import Drafter, DrafterContext, DraftSession
from spec_engine.model.target import Step, Target
from spec_engine.retrieval import Focus
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree
from tests.eagle_heads import HIDDEN, eagle3_weights, head_fields, write_head
from tests.fakes import VOCAB_SIZE, pair_preset, perturbed, save_pair, tiny_lm

GREEDY = SamplingParams()
PROMPT = tuple(torch.randint(0, 40, (90,), generator=torch.Generator().manual_seed(0)).tolist())
TEXT = (*PROMPT, *PROMPT[10:50], 3, 1, 4, *PROMPT[12:20])  # repeats, so that copying has something to say
VARIANTS: list[tuple[DrafterKind, str, bool]] = [
    ("none", "opt", False),
    ("lookup", "opt", False),
    ("lm", "opt", False),
    ("lm", "chain", False),
    ("lm", "beam", False),
    ("lm", "opt", True),
    ("eagle3", "opt", False),
    ("eagle3", "eagle", False),
    ("eagle3", "opt", True),
]
BEAM = TreeConfig(policy="beam", num_nodes=14, beam_widths=(3, 4, 4, 3))
TREES = {"opt": TreeConfig(num_nodes=14, threshold=0.1, max_depth=5), "beam": BEAM}
TREES["eagle"] = TreeConfig(policy="eagle", num_nodes=14, max_depth=4, top_k=4)
TREES["chain"] = TreeConfig(policy="chain", num_nodes=6, max_depth=6)
FEATURES = torch.randn(VOCAB_SIZE, 3 * HIDDEN, generator=torch.Generator().manual_seed(1))
VIEW = RetrievalConfig(chunk_size=8, top_k=3, num_sink=8, num_recent=16, prefill_window=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    save_pair(folder, tiny_lm(), perturbed(tiny_lm(), 0.05))
    write_head(folder / "head", eagle3_weights(), head_fields())
    return folder


@pytest.fixture(params=VARIANTS, ids=lambda variant: "-".join(map(str, variant)))
def make(request: pytest.FixtureRequest, folder: Path) -> Callable[[], Drafter]:
    """Builds the drafter anew, as the engine would."""
    kind, tree, retrieves = request.param
    preset = pair_preset(folder, kind, tree=TREES[tree], retrieval=replace(VIEW, enabled=retrieves), context_length=256)
    target = Target(tiny_lm(), 256, 64)
    return lambda: DRAFTERS[kind](DrafterContext(preset, target, "cpu"))


def begin(drafter: Drafter, prefix: Sequence[int] = ()) -> DraftSession:
    """A session that goes on from `prefix`; what it cannot go on from it reads again, as the engine has it."""
    session = drafter.begin(GREEDY)
    num_reused = session.reusable(prefix)
    assert num_reused <= len(prefix)
    for _ in session.reuse(prefix[:num_reused]):
        pass
    read(session, prefix[num_reused:], num_before=num_reused)
    return session


def step(session: DraftSession, token_ids: Sequence[int], num_done: int) -> Step:
    """Committed tokens with what the session asked for. Features depend on the token alone, which will do here."""
    features = FEATURES[list(token_ids)] if session.taps.features else None
    return Step(tuple(token_ids), num_done, features=features)


def read(session: DraftSession, text: Sequence[int], num_before: int = 0, chunk: int = 1000) -> None:
    """Let a session observe `text` in chunks."""
    for start in range(0, len(text), chunk):
        part = text[start : start + chunk]
        session.observe(step(session, part, num_before + start + len(part)))


def same(left: DraftTree, right: DraftTree) -> bool:
    """The same drafts; probabilities up to rounding."""
    scores = torch.allclose(torch.tensor(left.log_q), torch.tensor(right.log_q), atol=1e-3)
    return (left.token_ids, left.parents, left.depths) == (right.token_ids, right.parents, right.depths) and scores


def test_every_registered_drafter_is_here(folder: Path) -> None:
    assert {kind for kind, _, _ in VARIANTS} == set(DRAFTERS)
    preset = pair_preset(folder)
    assert available_drafters(preset) == ("none", "lookup", "lm")
    assert available_drafters(pair_preset(folder, "lookup")) == ("none", "lookup", "lm")
    assert available_drafters(pair_preset(folder, "eagle3")) == ("none", "lookup", "eagle3")
    without_model = replace(preset, draft=replace(preset.draft, model=None))
    assert available_drafters(without_model) == ("none", "lookup")
    assert max_draft_nodes("none", preset.draft) == 0
    assert max_draft_nodes("lookup", preset.draft) == preset.draft.lookup.num_draft


def test_it_introduces_itself(make: Callable[[], Drafter]) -> None:
    drafter = make()
    assert drafter.name in DRAFTERS
    assert drafter.vocab_size == 260


@pytest.mark.parametrize("max_nodes", [1, 2, 5, 14, 100])
def test_the_budget_and_the_root_are_kept(make: Callable[[], Drafter], max_nodes: int) -> None:
    drafter = make()
    session = begin(drafter)
    read(session, TEXT)
    tree = session.propose(PROMPT[20], max_nodes)
    assert len(tree) - 1 <= max_nodes
    assert tree.token_ids[0] == PROMPT[20]
    assert tree.parents[0] == -1
    assert max(tree.token_ids) < drafter.vocab_size
    if drafter.name != "none":
        assert len(tree) > 1


@pytest.mark.parametrize("chunk", [1, 7])
def test_prefill_chunks_do_not_change_the_drafts(make: Callable[[], Drafter], chunk: int) -> None:
    whole, parts = begin(make()), begin(make())
    read(whole, TEXT)
    read(parts, TEXT, chunk=chunk)
    assert same(whole.propose(5, 10), parts.propose(5, 10))


def test_it_works_when_nothing_was_accepted(make: Callable[[], Drafter]) -> None:
    session, straight = begin(make()), begin(make())
    read(session, TEXT)
    read(straight, TEXT)
    root = 7
    for num_done, token_id in enumerate((11, 12, 13), start=len(TEXT) + 1):
        session.propose(root, 10)  # all of it rejected: the root is committed, another token follows
        session.observe(step(session, (root,), num_done))
        straight.observe(step(straight, (root,), num_done))
        root = token_id
    assert same(session.propose(root, 10), straight.propose(root, 10))


def test_it_works_when_drafts_were_accepted(make: Callable[[], Drafter]) -> None:
    session, straight = begin(make()), begin(make())
    read(session, TEXT)
    tree = session.propose(PROMPT[20], 10)
    path = tree.path(len(tree) - 1)
    accepted = tuple(tree.token_ids[node] for node in path)
    session.observe(step(session, accepted, len(TEXT) + len(accepted)))
    read(straight, TEXT + accepted)
    assert same(session.propose(9, 10), straight.propose(9, 10))


def test_proposing_twice_gives_the_same(make: Callable[[], Drafter]) -> None:
    session = begin(make())
    read(session, TEXT)
    assert same(session.propose(5, 10), session.propose(5, 10))


def test_steps_without_a_proposal_are_remembered(make: Callable[[], Drafter]) -> None:
    session, straight = begin(make()), begin(make())
    read(session, TEXT)
    session.propose(4, 10)
    read(session, (4, 9, 2, 6), num_before=len(TEXT), chunk=1)
    read(straight, (*TEXT, 4, 9, 2, 6))
    assert same(session.propose(5, 10), straight.propose(5, 10))


def test_sessions_of_two_drafters_are_independent(make: Callable[[], Drafter]) -> None:
    one, other, alone = begin(make()), begin(make()), begin(make())
    read(one, TEXT[:60])
    read(other, tuple(reversed(TEXT)))
    other.propose(1, 10)
    read(one, TEXT[60:], num_before=60)
    read(alone, TEXT)
    assert same(one.propose(5, 10), alone.propose(5, 10))


def test_a_later_session_starts_afresh(make: Callable[[], Drafter]) -> None:
    drafter, fresh = make(), begin(make())
    earlier = begin(drafter)
    read(earlier, tuple(reversed(TEXT)))
    earlier.propose(1, 10)
    later = begin(drafter)
    read(later, TEXT)
    read(fresh, TEXT)
    assert same(later.propose(5, 10), fresh.propose(5, 10))


@pytest.mark.parametrize("num_shared", [0, 1, 45, 90])
def test_reuse_equals_reading(make: Callable[[], Drafter], num_shared: int) -> None:
    """The memory holds an older text; the target's cache holds `prefix`, of which the memory shares a part."""
    drafter, fresh = make(), begin(make())
    earlier = begin(drafter)
    read(earlier, (*TEXT[:num_shared], 33, 34, 35, *TEXT[:20]))
    earlier.propose(1, 10)
    prefix = TEXT[:100]
    session = begin(drafter, prefix)
    read(session, TEXT[100:], num_before=100)
    read(fresh, TEXT)
    assert same(session.propose(5, 10), fresh.propose(5, 10))


def test_reuse_can_be_given_up_midway(make: Callable[[], Drafter]) -> None:
    drafter, fresh = make(), begin(make())
    given_up, other = drafter.begin(GREEDY), tuple(reversed(TEXT))
    for _ in given_up.reuse(other[: given_up.reusable(other)]):
        break
    session = begin(drafter, TEXT[:50])
    read(session, TEXT[50:], num_before=50)
    read(fresh, TEXT)
    assert same(session.propose(5, 10), fresh.propose(5, 10))


def test_reuse_reports_what_it_holds(make: Callable[[], Drafter]) -> None:
    session = make().begin(GREEDY)
    counts = list(session.reuse(TEXT[: session.reusable(TEXT)]))
    assert counts == sorted(counts)
    assert all(0 < count <= len(TEXT) for count in counts)


def test_a_view_may_come_at_any_time(make: Callable[[], Drafter]) -> None:
    session = begin(make())
    read(session, TEXT)
    for chunk_ids in ((0, 3, 16, 17), (0, 5, 16, 17), tuple(range(18))):
        indices = torch.cat([torch.arange(chunk * 8, chunk * 8 + 8) for chunk in chunk_ids])
        session.focus(Focus(chunk_ids, indices[indices < len(TEXT)], 8))
        tree = session.propose(PROMPT[20], 10)
        assert tree.token_ids[0] == PROMPT[20]
        assert len(tree) <= 11


def test_an_empty_context(make: Callable[[], Drafter]) -> None:
    tree = begin(make()).propose(5, 10)
    assert tree.token_ids[0] == 5
    assert len(tree) <= 11


def test_sampling_sessions_keep_the_contract_too(make: Callable[[], Drafter]) -> None:
    session = make().begin(SamplingParams(temperature=0.8, seed=4))
    read(session, TEXT)
    tree = session.propose(PROMPT[20], 6)
    assert len(tree) <= 7
    assert tree.token_ids[0] == PROMPT[20]
