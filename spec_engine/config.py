"""Presets: which models run together, and how drafting is set up, as frozen values read from TOML.

Job: the dataclasses, reading `presets/*.toml`, and the rules that no type can express.
Non-job: keys and types (`tables`), loading a model, touching torch.

A preset's file stem is its name. A relative model path is a folder beside the file, or else a repository id on the hub.
"""

import dataclasses
import math
import tomllib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from spec_engine.errors import PresetError
from spec_engine.tables import build_table, nearest

TreePolicy = Literal["opt", "chain", "beam", "eagle"]
GRAPH_MEMORY = 512  # MiB
MAX_DRAFT_NODES = 255  # of one step; with the root they take the rows that a target keeps free for a tree
DrafterKind = Literal["none", "lm", "eagle3", "longspec", "mtp", "lookup", "blend"]
ModelDrafterKind = Literal["lm", "eagle3", "longspec", "mtp"]
MODEL_DRAFTERS: tuple[DrafterKind, ...] = typing.get_args(ModelDrafterKind)  # what a [draft.model] can be
NEED_MODEL: tuple[DrafterKind, ...] = (*MODEL_DRAFTERS, "blend")
CrossAttention = Literal["whole", "focus"]
DraftWeights = Literal["auto", "exact"]
Quantization = Literal["none", "4bit", "8bit"]
DTypeName = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model to load: a repository id on the hub, or a folder."""

    id: str
    revision: str | None = None
    dtype: DTypeName = "auto"  # auto: the checkpoint's on an accelerator, float32 on the CPU
    quantization: Quantization = "none"


@dataclass(frozen=True, slots=True)
class TreeConfig:
    """How a draft tree grows.

    ``opt`` is OPT-Tree (arXiv 2406.17276): the `num_nodes` nodes of largest path probability, grown level by level
    while the expected accepted length rises by more than `threshold`. ``beam`` is LongSpec's fixed beam (arXiv
    2502.17421), `beam_widths` nodes by level. ``eagle`` is EAGLE-2's dynamic tree (arXiv 2406.16858): the `top_k` best
    nodes of a level get `top_k` children each, and the best `num_nodes` of all are kept; what its authors call 60
    tokens and depth 7 is num_nodes = 59 and max_depth = 8 here. ``chain`` is one token a level. Where an answer is
    drawn, nodes are ranked by the noise that decides the draw, unless `shares_noise` is off.
    """

    policy: TreePolicy = "opt"
    num_nodes: int = 50  # drafted nodes at most, whatever the policy; the root not counted
    threshold: float = 0.7
    max_depth: int = 10
    beam_widths: tuple[int, ...] = (4, 16, 16, 16, 16)
    top_k: int = 10  # of ``eagle``
    shares_noise: bool = True


@dataclass(frozen=True, slots=True)
class RetrievalConfig:
    """Cross-model retrieval (SpecExtend, arXiv 2505.20776, section 3.2). Lengths in tokens."""

    enabled: bool = True
    chunk_size: int = 32
    top_k: int = 32  # chunks
    every: int = 1  # steps between two updates
    hysteresis: float = 0.2  # a chunk in view stays unless one outside scores better by this share
    lookahead: float = 0.0  # share of a chunk's score that the next chunk has at least
    num_sink: int = 16  # first tokens, always in the view
    num_recent: int = 128  # last tokens, always in the view
    prefill_window: int = 512  # tokens that each token sees while the draft reads the prompt


@dataclass(frozen=True, slots=True)
class LookupConfig:
    """Drafting by copying what followed earlier occurrences of the last tokens.

    Prompt lookup with n-grams of n tokens: `min_match` and `max_match` n, `num_branches` 1, `min_probability` 0.
    """

    max_match: int = 16  # tokens; longer matches count as this
    min_match: int = 1
    num_draft: int = 31  # tokens proposed at most: 32 rows with the root, which a GPU takes in one captured pass
    num_branches: int = 3  # continuations of one place at most
    min_probability: float = 0.05  # estimated, that a token is accepted; below it nothing is drafted


@dataclass(frozen=True, slots=True)
class BlendConfig:
    """Drafting with a model and by copying at once."""

    model_kind: ModelDrafterKind = "lm"  # what draft.model is, where draft.kind does not say it
    sure: float = 0.9  # estimated probability of the first copied token from which on the model is not asked


@dataclass(frozen=True, slots=True)
class DraftConfig:
    """Which drafter runs. `model` is needed by those in `NEED_MODEL`.

    `cross_attention` is for ``longspec``: its head looks at the target's whole memory, or at what retrieval has in
    focus, so that drafting takes the same time over any document. The paper's tree is the policy ``beam``, 68 nodes.
    `weights` "auto" lets a draft model, an EAGLE or a LongSpec head round its matrices to 8 bits on a GPU where that
    is faster; "exact" keeps them as they are. The answers are the same.
    """

    kind: DrafterKind = "none"
    model: ModelRef | None = None
    tree: TreeConfig = field(default_factory=TreeConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    lookup: LookupConfig = field(default_factory=LookupConfig)
    blend: BlendConfig = field(default_factory=BlendConfig)
    cross_attention: CrossAttention = "whole"
    weights: DraftWeights = "auto"

    @property
    def model_kind(self) -> DrafterKind:
        """What `model` is: the kind itself, or what blend takes it for."""
        return self.kind if self.kind in MODEL_DRAFTERS else self.blend.model_kind

    @property
    def retrieves(self) -> bool:
        """Whether a view of the context is chosen for the model that drafts."""
        return self.retrieves_for(self.kind)

    def retrieves_for(self, kind: DrafterKind) -> bool:
        """Whether one would be chosen for a drafter of this kind."""
        has_view = self.model_kind in ("lm", "eagle3") or (
            self.model_kind == "longspec" and self.cross_attention == "focus"
        )
        return kind in NEED_MODEL and self.retrieval.enabled and has_view


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What a question is answered with unless the user says otherwise."""

    max_tokens: int = 512
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class MemoryFigures:
    """GB (10^9 bytes) on a GPU with the preset's context, computed from published configurations; 0: nobody did. Once a
    model's configuration is on the machine, that is asked instead."""

    weights: float = 0.0
    cache: float = 0.0  # of the target, full
    draft: float = 0.0  # its weights and caches
    working: float = 0.0  # tensors of a pass
    windows: float = 0.0  # of `cache`, what layers with a window take however long the context is

    @property
    def total(self) -> float:
        return self.weights + self.cache + self.draft + self.working


@dataclass(frozen=True, slots=True)
class Preset:
    """A runnable pairing. `context_length` in tokens, prompt and answer together."""

    name: str
    title: str
    description: str
    target: ModelRef
    context_length: int
    reliable_length: int = 0  # document tokens up to which four of five answers or more were right; 0: not measured
    instruction: str = "Answer questions about this document. Quote it where that helps."  # put before the document
    draft: DraftConfig = field(default_factory=DraftConfig)
    generation: GenerationDefaults = field(default_factory=GenerationDefaults)
    prefill_chunk: int = 0  # tokens per prefill pass at most; 0: by the memory that is free, 512 on the CPU
    graph_memory: int = GRAPH_MEMORY  # MiB that captured passes of a model may take on a GPU; 0: none are captured
    memory: MemoryFigures = field(default_factory=MemoryFigures)
    folder: Path = Path()  # where the file lies; relative model paths start here


def preset_folder() -> Path:
    """The folder of the shipped presets: beside the package in a checkout, inside it when installed."""
    checkout = Path(__file__).resolve().parent.parent / "presets"
    return checkout if (checkout / "builtin.toml").is_file() else Path(__file__).resolve().parent / "presets"


def preset_names(folder: Path | None = None) -> list[str]:
    """Names of the presets in `folder`, ``builtin`` first, the rest sorted."""
    names = sorted(path.stem for path in (folder or preset_folder()).glob("*.toml"))
    return sorted(names, key=lambda name: name != "builtin")


def load_preset(name_or_path: str, folder: Path | None = None) -> Preset:
    """Read a preset by name, or from a path that ends in ``.toml``.

    Raises `PresetError` for an unknown name, a file that is not TOML, an unknown key or a value of the wrong type.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = (folder or preset_folder()) / f"{name_or_path}.toml"
        if not path.is_file():
            names = preset_names(folder)
            raise PresetError(f"There is no preset named '{name_or_path}'.{nearest(name_or_path, names)}")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PresetError(f"The preset file {path} does not exist. Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PresetError(f"The preset file {path} cannot be read: {error}. Correct the file.") from error
    return parse_preset(text, path)


def parse_preset(text: str, path: Path) -> Preset:
    """A preset from TOML, as if it stood in the file `path`, which need not exist.

    Raises `PresetError` for what is not TOML, an unknown key or a value of the wrong type or out of range.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PresetError(f"The preset file {path} cannot be read: {error}. Correct the file.") from error
    for key, value in (("name", path.stem), ("folder", str(path.resolve().parent))):
        if key in table:
            raise PresetError(f"{path}: '{key}' cannot be set, it comes from the file. Remove that line.")
        table[key] = value
    preset = build_table(Preset, table, str(path))
    check_preset(preset, str(path))
    return preset


def resolve_model(preset: Preset, ref: ModelRef) -> str:
    """The folder that `ref` names beside the preset file, or beside the shipped presets, if there is one; else the id
    as it stands."""
    places = (preset.folder / ref.id, preset_folder() / ref.id)
    return next((str(local) for local in places if local.is_dir()), ref.id)


def preset_dict(preset: Preset) -> dict[str, object]:
    """All settings as plain values for JSON, without the folder."""
    table = dataclasses.asdict(preset)
    del table["folder"]
    return table


def check_preset(preset: Preset, where: str) -> None:
    """Raise `PresetError` where a rule that no type can express is broken; `where` begins the message."""
    kind, tree = preset.draft.kind, preset.draft.tree
    if kind in NEED_MODEL and preset.draft.model is None:
        raise PresetError(f"{where}: draft.kind = '{kind}' needs a [draft.model] table with an id. Add it.")
    if preset.draft.cross_attention == "focus" and not preset.draft.retrieval.enabled:
        raise PresetError(
            f"{where}: draft.cross_attention = 'focus' needs retrieval, but draft.retrieval.enabled is false. Enable "
            "it, or set cross_attention = 'whole'."
        )
    if tree.policy == "beam" and sum(tree.beam_widths) > tree.num_nodes:
        raise PresetError(
            f"{where}: draft.tree.beam_widths add up to {sum(tree.beam_widths)} nodes, draft.tree.num_nodes allows "
            f"{tree.num_nodes}. Raise num_nodes or shorten beam_widths."
        )
    for key, value, lowest, highest in _ranges(preset):
        if not lowest <= value <= highest:
            rule = f"at least {lowest:,}" if highest == math.inf else f"between {lowest:,} and {highest:,}"
            raise PresetError(f"{where}: {key} is {value}, it must be {rule}. Correct the value.")
    if not preset.generation.top_p > 0 or not preset.generation.repetition_penalty > 0:
        raise PresetError(f"{where}: generation.top_p and repetition_penalty must be above 0. Correct the value.")


def _ranges(preset: Preset) -> list[tuple[str, float, float, float]]:
    """Every bounded setting with its value and bounds."""
    draft, generation = preset.draft, preset.generation
    tree, retrieval, lookup = draft.tree, draft.retrieval, draft.lookup
    return [
        ("context_length", preset.context_length, 1, 10_000_000),
        ("reliable_length", preset.reliable_length, 0, preset.context_length),
        ("prefill_chunk", preset.prefill_chunk, 0, math.inf),
        ("graph_memory", preset.graph_memory, 0, math.inf),
        *((f"memory.{key}", value, 0, math.inf) for key, value in dataclasses.asdict(preset.memory).items()),
        ("draft.tree.num_nodes", tree.num_nodes, 1, MAX_DRAFT_NODES),
        ("draft.tree.max_depth", tree.max_depth, 1, MAX_DRAFT_NODES),
        ("draft.tree.threshold", tree.threshold, 0, math.inf),
        ("draft.tree.top_k", tree.top_k, 1, 64),
        ("the number of draft.tree.beam_widths", len(tree.beam_widths), 1, math.inf),
        ("the least of draft.tree.beam_widths", min(tree.beam_widths, default=1), 1, math.inf),
        ("draft.retrieval.chunk_size", retrieval.chunk_size, 1, math.inf),
        ("draft.retrieval.top_k", retrieval.top_k, 1, math.inf),
        ("draft.retrieval.every", retrieval.every, 1, math.inf),
        ("draft.retrieval.hysteresis", retrieval.hysteresis, 0, math.inf),
        ("draft.retrieval.lookahead", retrieval.lookahead, 0, 1),
        ("draft.retrieval.num_sink", retrieval.num_sink, 0, math.inf),
        ("draft.retrieval.num_recent", retrieval.num_recent, 0, math.inf),
        ("draft.retrieval.prefill_window", retrieval.prefill_window, 1, math.inf),
        ("draft.lookup.min_match", lookup.min_match, 1, lookup.max_match),
        ("draft.lookup.num_branches", lookup.num_branches, 1, math.inf),
        ("draft.lookup.min_probability", lookup.min_probability, 0, 1),
        ("draft.lookup.num_draft", lookup.num_draft, 1, MAX_DRAFT_NODES),
        ("draft.blend.sure", draft.blend.sure, 0, math.inf),
        ("generation.max_tokens", generation.max_tokens, 1, math.inf),
        ("generation.temperature", generation.temperature, 0, math.inf),
        ("generation.top_k", generation.top_k, 0, math.inf),
        ("generation.top_p", generation.top_p, 0, 1),
        ("generation.min_p", generation.min_p, 0, 1),
        ("generation.repetition_penalty", generation.repetition_penalty, 0, math.inf),
    ]
