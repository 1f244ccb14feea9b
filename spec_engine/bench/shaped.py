"""Whole answers of a preset's published sizes with random weights, accepted as a published figure says.

Job: target and drafter of the sizes that a preset names, plain and drafted answers of them in one run, the table.
Non-job: the replayed acceptance (`replay`), single passes (`limit`), answers to questions (`run`).
"""

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from spec_engine.answer import Request
from spec_engine.bench.replay import Profile, ReplayDrafter
from spec_engine.bench.shapes import echoing, random_model, shape_config
from spec_engine.config import MODEL_DRAFTERS, Preset, RetrievalConfig, TreeConfig, load_preset
from spec_engine.drafters import DRAFTERS, max_draft_nodes
from spec_engine.drafters.base import Drafter, DrafterContext
from spec_engine.drafters.eagle3 import EagleDrafter
from spec_engine.drafters.eagle_files import HeadFiles, stored_config
from spec_engine.drafters.eagle_fit import fit_head
from spec_engine.drafters.eagle_head import EagleHead
from spec_engine.drafters.lm import LMDrafter
from spec_engine.drafters.lm_memory import settings_for
from spec_engine.drafters.longspec import LongSpecDrafter, target_rotary
from spec_engine.drafters.longspec_head import LongSpecHead, head_config
from spec_engine.drafters.mtp import MtpDrafter
from spec_engine.drafters.mtp_head import MtpHead, mtp_config
from spec_engine.drafters.mtp_work import MtpSight
from spec_engine.drafters.whole import WholeDrafts
from spec_engine.engine import Engine, EngineConfig
from spec_engine.errors import RequestError
from spec_engine.events import Finished
from spec_engine.metrics import GenerationMetrics
from spec_engine.model.checkpoint import Checkpoint
from spec_engine.model.head_products import join_products
from spec_engine.model.load import load_tokenizer
from spec_engine.model.target import Target
from spec_engine.sampling import SamplingParams
from spec_engine.stopping import StopRules

_UNTIMED = (3, 5)  # answers before one is timed, where passes are captured: until each was used so often, and at most
_SPARE = 32  # tokens
_CHUNK = {"cpu": 512}  # tokens of a prompt read at once …
_LONG_CHUNK = 2048  # … and elsewhere


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What to measure: prompts of `lengths` tokens, each with its mean tokens a step, answers of `num_tokens`.

    With `is_fixed` the most is drafted in every step. It is anyway where a draft goes by its own probabilities, which
    say nothing in random weights.
    """

    lengths: Sequence[int]
    means: Sequence[float]
    num_tokens: int
    device: torch.device
    dtype: torch.dtype
    is_fixed: bool = False


@dataclass(frozen=True, slots=True)
class ReplayRow:
    """A plain answer and a drafted one behind a prompt of `length` tokens. Seconds; those of parts are for a step."""

    length: int
    given_mean: float
    mean: float  # that the draws came to
    plain_token_s: float
    token_s: float
    draft_s: float
    verify_s: float
    other_s: float
    num_same: int
    num_tokens: int
    num_captured: int  # passes, while these answers were timed: so much the slower were they

    @property
    def speedup(self) -> float:
        """Of the drafted answer."""
        return self.plain_token_s / self.token_s


def measure_replay(
    preset: Preset, plan: ReplayPlan, tell: Callable[[str], None], save: Callable[[Sequence[ReplayRow], str], None]
) -> tuple[list[ReplayRow], str]:
    """Both answers behind each length, in one run on one target, and what it says of its graphs; after each length,
    `save` gets what is there.

    Raises `RequestError` for a preset without a draft model, for a size that is not known, and for a mean that its
    trees cannot reach.
    """
    kind = preset.draft.blend.model_kind if preset.draft.kind == "blend" else preset.draft.kind
    preset = replace(preset, draft=replace(preset.draft, kind=kind, tree=at_full_depth(preset.draft.tree)))
    depth = tree_depth(preset.draft.tree)
    if kind not in MODEL_DRAFTERS or preset.draft.model is None:
        raise RequestError(f"The preset '{preset.name}' has no draft model whose cost could be measured.")
    for mean in plan.means:
        Profile(mean).chance(depth)
    capacity = max(plan.lengths) + plan.num_tokens + _SPARE
    model = echoing(random_model(preset.target.id, 2 * capacity, plan.dtype, plan.device))
    chunk = _CHUNK.get(plan.device.type, _LONG_CHUNK)
    target = Target(model, capacity, chunk, preset.graph_memory << 20, may_join=True)
    drafter = random_drafter(preset, target)
    may_stop = _whole(drafter) is not None and not plan.is_fixed
    builtin = load_preset("builtin")
    tokenizer = load_tokenizer(builtin, builtin.target)

    def where() -> str:
        return f"{_captures(target, drafter)}{' The controller chose the levels.' if may_stop else ''}"

    source = random.Random(0)
    known = range(300, min(tokenizer.vocab_size, target.vocab_size))
    rows = []
    for length, mean in zip(plan.lengths, plan.means, strict=True):
        request = Request(tuple(source.choices(known, k=length)), SamplingParams(), StopRules(plan.num_tokens))
        config = EngineConfig(0, RetrievalConfig(enabled=False), adaptive=False, prefill_chunk=chunk)
        num_nodes, retrieval = max_draft_nodes(kind, preset.draft), preset.draft.retrieval
        drafted = replace(config, max_nodes=num_nodes, retrieval=retrieval, adaptive=may_stop)
        none = DRAFTERS["none"](DrafterContext(preset, target, str(plan.device)))
        plain = Engine(target, none, tokenizer, config)
        engine = Engine(target, ReplayDrafter(drafter, Profile(mean), depth, may_stop=may_stop), tokenizer, drafted)
        # drafted first: what target and drafter read of a prompt together is not read again for the plain answer
        drafted_answer, plain_answer = (_answered(one, request, drafter) for one in (engine, plain))
        row = _row(mean, plain_answer, drafted_answer)
        rows.append(row)
        save(rows, where())
        tell(f"{length:,} tokens: {1000 * row.plain_token_s:.1f} ms a token plainly, {row.speedup:.2f} x drafted")
    return rows, where()


def _whole(drafter: Drafter) -> WholeDrafts | None:
    """Its captured drafts."""
    return drafter.whole if isinstance(drafter, EagleDrafter | LongSpecDrafter | MtpDrafter) else None


def _captures(target: Target, drafter: Drafter) -> str:
    """What both say of captured passes."""
    whole = _whole(drafter)
    note = f" Whole drafts: {whole.note}." if whole else ""
    note += f" The draft model: {drafter.passes_note}" if isinstance(drafter, LMDrafter) else ""
    note += f" {drafter.products_note}" if isinstance(drafter, EagleDrafter | LongSpecDrafter) else ""
    return f"{target.passes_note}{note}"


def at_full_depth(tree: TreeConfig) -> TreeConfig:
    """The same budget with levels that do not end where a draft is unsure, as random weights always are."""
    return replace(tree, policy="eagle") if tree.policy == "opt" else tree


def tree_depth(tree: TreeConfig) -> int:
    """Levels at most."""
    return len(tree.beam_widths) if tree.policy == "beam" else tree.max_depth


def random_drafter(preset: Preset, target: Target) -> Drafter:
    """The drafter of a preset at its published size, with random weights."""
    draft, ref = preset.draft, preset.draft.model
    assert ref is not None, "checked by the caller"
    settings = settings_for(preset, target)
    if draft.kind == "lm":
        return LMDrafter(random_model(ref.id, 2 * target.capacity, target.dtype, target.device), settings)
    stored = Checkpoint(ref.id, dict(shape_config(ref.id)), {})
    with torch.random.fork_rng(devices=[target.device] if target.device.type == "cuda" else []):
        torch.manual_seed(0)
        if draft.kind == "longspec":
            rotary = target_rotary(target)  # which makes numbers that belong on the host
            with target.device:
                head = LongSpecHead(head_config(stored), rotary).to(target.dtype)
            join_products(head.requires_grad_(False))
            return LongSpecDrafter(head, target, draft, settings.graph_bytes)
        if draft.kind == "mtp":
            with target.device:
                multi = MtpHead(mtp_config(stored)).to(target.dtype).requires_grad_(False)
                for order in multi.buffers():  # every cluster holds other tokens, as one that was trained
                    if order.dtype == torch.int64:
                        order.copy_(torch.randperm(len(order)))
            join_products(multi)
            return MtpDrafter(MtpSight(multi, target), draft.tree, settings.graph_bytes)
        config = stored_config(stored, is_eagle3=True, weights=None)
        with target.device:
            weights = EagleHead(config).to(target.dtype).state_dict()
    known = torch.arange(config.num_columns or target.vocab_size)
    files = HeadFiles(ref.id, config, weights, known, None, None, target.vocab_size)
    return EagleDrafter(fit_head(files, target), settings)


def _answered(engine: Engine, request: Request, drafter: Drafter) -> tuple[Finished, int]:
    """The answer behind a prompt that was read and passes that were captured, and how many were captured meanwhile all
    the same. Raises `RequestError` for a drafter that broke: what was measured then is something else."""
    least, most = _UNTIMED
    for number in range(1, most + 1):
        before = _captures(engine.target, drafter)
        for _ in engine.generate(request):
            pass
        if before == _captures(engine.target, drafter) and (number == 1 or number >= least):
            break
    num_before = _num_captured(engine.target, drafter)
    *_, finished = engine.generate(request)
    assert isinstance(finished, Finished), "every answer ends with Finished"
    if finished.metrics.drafter_failure:
        raise RequestError(finished.metrics.drafter_failure)
    return finished, _num_captured(engine.target, drafter) - num_before


def _num_captured(target: Target, drafter: Drafter) -> int:
    """Captured passes so far."""
    return sum(int(number) for number in re.findall(r"(\d+) captured passes", _captures(target, drafter)))


def _row(mean: float, plain_answer: tuple[Finished, int], drafted_answer: tuple[Finished, int]) -> ReplayRow:
    (plain, num_captured), (drafted, num_more) = plain_answer, drafted_answer
    found: GenerationMetrics = drafted.metrics
    pairs = zip(plain.token_ids, drafted.token_ids, strict=False)
    num_tokens = len(plain.token_ids)
    return ReplayRow(
        length=found.num_prompt_tokens,
        given_mean=mean,
        mean=found.mean_acceptance_length,
        plain_token_s=plain.metrics.decode_s / num_tokens,
        token_s=found.decode_s / len(drafted.token_ids),
        draft_s=found.draft_s / found.num_spec_steps,
        verify_s=found.verify_s / found.num_spec_steps,
        other_s=found.other_s / found.num_spec_steps,
        num_same=next((index for index, (one, other) in enumerate(pairs) if one != other), num_tokens),
        num_tokens=num_tokens,
        num_captured=num_captured + num_more,
    )


def replay_table(rows: Sequence[ReplayRow], where: str) -> str:
    """As Markdown."""
    lines = [
        "| context | mean given | drawn | plain | drafted | speed-up | draft | verify | other | same | captured |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.length:,} | {row.given_mean:.2f} | {row.mean:.2f} | {1000 * row.plain_token_s:.2f} ms a token | "
        f"{1000 * row.token_s:.2f} ms a token | {row.speedup:.2f} x | {1000 * row.draft_s:.2f} ms | "
        f"{1000 * row.verify_s:.2f} ms | {1000 * row.other_s:.2f} ms | {row.num_same} of {row.num_tokens} | "
        f"{row.num_captured} |"
        for row in rows
    ]
    said = "Random weights, acceptance replayed from the means given: costs are measured, acceptance is not."
    said += " Same: tokens, before the answers part. Captured: passes, while they were timed."
    return "\n".join([*lines, "", f"{said} {where}"])


def replay_json(rows: Sequence[ReplayRow], where: str) -> str:
    """As JSON."""
    table = {
        "where": where,
        "acceptance": "replayed",
        "rows": [asdict(row) | {"speedup": round(row.speedup, 3)} for row in rows],
    }
    return json.dumps(table, indent=1)
