"""One suite over every registered drafter: what `drafters/base.py` promises.

A new drafter runs it by being in the registry, and one outside the project with ``--drafter MODULE:BUILD``.
"""

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from spec_engine.config import DrafterKind, RetrievalConfig, TreeConfig
from spec_engine.drafters import DRAFTERS, available_drafters, draft_need, max_draft_nodes
from spec_engine.drafters.base import Drafter, DrafterContext, DraftSession
from spec_engine.drafters.longspec_head import save_head
from spec_engine.model.target import Target
from spec_engine.retrieval import Focus
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree
from tests.eagle_heads import eagle3_weights, head_fields, write_head
from tests.fakes import pair_preset, perturbed, save_pair, tiny_lm
from tests.heads import longspec_head
from tests.mtp_heads import mtp_head, save_mtp

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
    ("longspec", "beam", False),
    ("longspec", "chain", False),
    ("longspec", "opt", True),
    ("mtp", "beam", False),
    ("mtp", "opt", False),
    ("blend", "opt", True),
]
VARIANTS += [(kind, "opt", False) for kind in DRAFTERS if kind not in {variant[0] for variant in VARIANTS}]
BEAM = TreeConfig(policy="beam", num_nodes=14, beam_widths=(3, 4, 4, 3))
TREES = {"opt": TreeConfig(num_nodes=14, threshold=0.1, max_depth=5), "beam": BEAM}
TREES["eagle"] = TreeConfig(policy="eagle", num_nodes=14, max_depth=4, top_k=4)
TREES["chain"] = TreeConfig(policy="chain", num_nodes=6, max_depth=6)
VIEW = RetrievalConfig(chunk_size=8, top_k=3, num_sink=8, num_recent=16, prefill_window=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    save_pair(folder, tiny_lm(), perturbed(tiny_lm(), 0.05))
    save_head(longspec_head(tiny_lm(), window=32), folder / "longspec")
    write_head(folder / "eagle", eagle3_weights(), head_fields())
    save_mtp(mtp_head(tiny_lm()), folder / "mtp")
    return folder


@dataclass(frozen=True)
class Made:
    """A drafter, and the target that it drafts for: it may look into its cache."""

    drafter: Drafter
    target: Target


@dataclass(frozen=True)
class Answering:
    """A session in an answer: the target has read what the session observed."""

    target: Target
    session: DraftSession

    def propose(
        self, root: int, max_nodes: int, min_gain: float = 0.0, first_gain: float = 0.0, least_chance: float = 0.0
    ) -> DraftTree:
        return self.session.propose(root, max_nodes, min_gain, first_gain, least_chance)

    def focus(self, focus: Focus) -> None:
        self.session.focus(focus)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every variant of what is registered, or the one drafter that was named."""
    if "make" in metafunc.fixturenames:
        named = metafunc.config.getoption("--drafter")
        variants = [(named, "opt", True)] if named else VARIANTS
        metafunc.parametrize("make", variants, ids=lambda variant: "-".join(map(str, variant)), indirect=True)


@pytest.fixture
def make(request: pytest.FixtureRequest, folder: Path) -> Callable[[], Made]:
    """Builds the drafter anew, as the engine would, beside a target of its own."""
    kind, tree, retrieves = request.param
    if kind not in DRAFTERS:
        module, _, name = kind.partition(":")
        if not name:
            raise pytest.UsageError("--drafter takes MODULE:BUILD, for example repeat:build")
        kind, builder = "lm", getattr(importlib.import_module(module), name)
    else:
        builder = DRAFTERS[kind]
    preset = pair_preset(folder, kind, tree=TREES[tree], retrieval=replace(VIEW, enabled=retrieves), context_length=256)
    preset = replace(preset, draft=replace(preset.draft, cross_attention="focus" if retrieves else "whole"))
    model = tiny_lm()

    def build() -> Made:
        target = Target(model, 256, 256)
        return Made(builder(DrafterContext(preset, target, "cpu")), target)

    return build


def begin(made: Made, prefix: Sequence[int] = (), sampling: SamplingParams = GREEDY) -> Answering:
    """A new answer whose prompt begins with `prefix`, which the target has read."""
    made.target.reset()
    for _ in made.target.prefill(prefix):
        pass
    session = made.drafter.begin(sampling)
    num_reused = session.reusable(prefix)
    made.target.truncate(num_reused)
    for _ in session.reuse(prefix[:num_reused]):
        pass
    answering = Answering(made.target, session)
    read(answering, prefix[num_reused:])
    return answering


def read(answering: Answering, text: Sequence[int], chunk: int = 1000) -> None:
    """Commit `text` in chunks: the target reads it, the session observes it."""
    for start in range(0, len(text), chunk):
        for step in answering.target.prefill(text[start : start + chunk], answering.session.taps):
            answering.session.observe(step)


def same(left: DraftTree, right: DraftTree) -> bool:
    """The same drafts; probabilities up to rounding."""
    scores = torch.allclose(torch.tensor(left.log_q), torch.tensor(right.log_q), atol=1e-3)
    return (left.token_ids, left.parents, left.depths) == (right.token_ids, right.parents, right.depths) and scores


def test_every_registered_drafter_is_here(folder: Path) -> None:
    assert {kind for kind, _, _ in VARIANTS} == set(DRAFTERS)
    preset = pair_preset(folder)
    sorts = {"lm": "lm", "lookup": "lm", "blend": "lm", "eagle3": "eagle3", "longspec": "longspec"}
    sorts["mtp"] = "mtp"
    for kind, model_kind in sorts.items():
        draft = replace(preset.draft, kind=kind)
        usable = {"none", "lookup", "blend", model_kind}
        assert set(available_drafters(replace(preset, draft=draft))) == usable
        assert available_drafters(replace(preset, draft=replace(draft, model=None))) == ("none", "lookup")
    assert max_draft_nodes("none", preset.draft) == 0
    assert max_draft_nodes("lookup", preset.draft) == preset.draft.lookup.num_draft


@pytest.mark.parametrize("kind", ["eagle3", "longspec", "mtp"])
def test_a_head_needs_memory_in_the_dtype_of_its_target(folder: Path, kind: DrafterKind) -> None:
    """Which the preset may name; the head's own comes first where it names one."""
    preset = pair_preset(folder, kind)
    assert preset.draft.model is not None
    by_target = replace(preset.draft, model=replace(preset.draft.model, dtype="auto"))
    needs = {
        dtype: draft_need(replace(preset, target=replace(preset.target, dtype=dtype), draft=by_target), "cpu").weights
        for dtype in ("float32", "bfloat16")
    }
    assert needs["float32"] == 2 * needs["bfloat16"] > 0


def test_it_introduces_itself(make: Callable[[], Made]) -> None:
    drafter = make().drafter
    assert drafter.name
    assert drafter.vocab_size == 260


@pytest.mark.parametrize("max_nodes", [1, 2, 5, 14, 100])
def test_the_budget_and_the_root_are_kept(make: Callable[[], Made], max_nodes: int) -> None:
    made = make()
    drafter, session = made.drafter, begin(made)
    read(session, TEXT)
    tree = session.propose(PROMPT[20], max_nodes)
    assert len(tree) - 1 <= max_nodes
    assert tree.token_ids[0] == PROMPT[20]
    assert tree.parents[0] == -1
    assert max(tree.token_ids) < drafter.vocab_size
    assert all(-math.inf < score <= 0 for score in tree.log_q)
    assert list(tree.log_q) == sorted(tree.log_q, reverse=True)  # likelier ones first
    if drafter.name != "none":  # whoever is not that drafts
        assert len(tree) > 1


def test_at_rest_nothing_is_proposed_that_takes_a_pass(make: Callable[[], Made]) -> None:
    """And what rested drafts as before afterwards."""
    rested, straight = begin(make()), begin(make())
    read(rested, TEXT)
    read(straight, TEXT)
    tree = rested.propose(5, 10, math.inf)
    assert tree.token_ids[0] == 5
    assert len(tree) <= 11
    assert tree.num_passes == 0
    assert same(rested.propose(5, 10), straight.propose(5, 10))


def test_a_pass_is_run_where_it_brings_enough(make: Callable[[], Made]) -> None:
    """The more is asked of it, the fewer."""
    session = begin(make())
    read(session, TEXT)
    passes = [session.propose(5, 10, min_gain).num_passes for min_gain in (0.0, 0.01, 0.3, 1.0)]
    assert passes == sorted(passes, reverse=True)
    assert passes[0] == 0 or passes[-1] < passes[0]


@pytest.mark.parametrize("chunk", [1, 7])
def test_prefill_chunks_do_not_change_the_drafts(make: Callable[[], Made], chunk: int) -> None:
    whole, parts = begin(make()), begin(make())
    read(whole, TEXT)
    read(parts, TEXT, chunk=chunk)
    assert same(whole.propose(5, 10), parts.propose(5, 10))


def test_it_works_when_nothing_was_accepted(make: Callable[[], Made]) -> None:
    session, straight = begin(make()), begin(make())
    read(session, TEXT)
    read(straight, TEXT)
    root = 7
    for token_id in (11, 12, 13):
        session.propose(root, 10)  # all of it rejected: the root is committed, another token follows
        read(session, (root,))
        read(straight, (root,))
        root = token_id
    assert same(session.propose(root, 10), straight.propose(root, 10))


def test_it_works_when_drafts_were_accepted(make: Callable[[], Made]) -> None:
    session, straight = begin(make()), begin(make())
    read(session, TEXT)
    tree = session.propose(PROMPT[20], 10)
    path = tree.path(len(tree) - 1)
    accepted = tuple(tree.token_ids[node] for node in path)
    read(session, accepted)
    read(straight, TEXT + accepted)
    assert same(session.propose(9, 10), straight.propose(9, 10))


def test_proposing_twice_gives_the_same(make: Callable[[], Made]) -> None:
    session = begin(make())
    read(session, TEXT)
    assert same(session.propose(5, 10), session.propose(5, 10))


def test_steps_without_a_proposal_are_remembered(make: Callable[[], Made]) -> None:
    session, straight = begin(make()), begin(make())
    read(session, TEXT)
    session.propose(4, 10)
    read(session, (4, 9, 2, 6), chunk=1)
    read(straight, (*TEXT, 4, 9, 2, 6))
    assert same(session.propose(5, 10), straight.propose(5, 10))


def test_sessions_of_two_drafters_are_independent(make: Callable[[], Made]) -> None:
    one, other, alone = begin(make()), begin(make()), begin(make())
    read(one, TEXT[:60])
    read(other, tuple(reversed(TEXT)))
    other.propose(1, 10)
    read(one, TEXT[60:])
    read(alone, TEXT)
    assert same(one.propose(5, 10), alone.propose(5, 10))


def test_a_later_session_starts_afresh(make: Callable[[], Made]) -> None:
    made, fresh = make(), begin(make())
    earlier = begin(made)
    read(earlier, tuple(reversed(TEXT)))
    earlier.propose(1, 10)
    later = begin(made)
    read(later, TEXT)
    read(fresh, TEXT)
    assert same(later.propose(5, 10), fresh.propose(5, 10))


@pytest.mark.parametrize("num_shared", [0, 1, 45, 90])
def test_reuse_equals_reading(make: Callable[[], Made], num_shared: int) -> None:
    """The memory holds an older text; the target's cache holds `prefix`, of which the memory shares a part."""
    made, fresh = make(), begin(make())
    earlier = begin(made)
    read(earlier, (*TEXT[:num_shared], 33, 34, 35, *TEXT[:20]))
    earlier.propose(1, 10)
    session = begin(made, TEXT[:100])
    read(session, TEXT[100:])
    read(fresh, TEXT)
    assert same(session.propose(5, 10), fresh.propose(5, 10))


def test_reuse_can_be_given_up_midway(make: Callable[[], Made]) -> None:
    made, fresh = make(), begin(make())
    given_up, other = made.drafter.begin(GREEDY), tuple(reversed(TEXT))
    for _ in given_up.reuse(other[: given_up.reusable(other)]):
        break
    session = begin(made, TEXT[:50])
    read(session, TEXT[50:])
    read(fresh, TEXT)
    assert same(session.propose(5, 10), fresh.propose(5, 10))


def test_reuse_reports_what_it_holds(make: Callable[[], Made]) -> None:
    session = make().drafter.begin(GREEDY)
    counts = list(session.reuse(TEXT[: session.reusable(TEXT)]))
    assert counts == sorted(counts)
    assert all(0 <= count <= len(TEXT) for count in counts)


def test_a_view_may_come_at_any_time(make: Callable[[], Made]) -> None:
    session = begin(make())
    read(session, TEXT)
    for chunk_ids in ((0, 3, 16, 17), (0, 5, 16, 17), tuple(range(18))):
        indices = torch.cat([torch.arange(chunk * 8, chunk * 8 + 8) for chunk in chunk_ids])
        session.focus(Focus(chunk_ids, indices[indices < len(TEXT)], 8))
        tree = session.propose(PROMPT[20], 10)
        assert tree.token_ids[0] == PROMPT[20]
        assert len(tree) <= 11


def test_an_empty_context(make: Callable[[], Made]) -> None:
    tree = begin(make()).propose(5, 10)
    assert tree.token_ids[0] == 5
    assert len(tree) <= 11


def test_sampling_sessions_keep_the_contract_too(make: Callable[[], Made]) -> None:
    session = begin(make(), sampling=SamplingParams(temperature=0.8, seed=4))
    read(session, TEXT)
    tree = session.propose(PROMPT[20], 6)
    assert len(tree) <= 7
    assert tree.token_ids[0] == PROMPT[20]
