"""``spec-engine bench``: its options, and which part of `spec_engine.bench` measures.

Job: from arguments to a measurement and a table. Non-job: measuring (bench/).
"""

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast, get_args

import torch

from spec_engine.bench.kernels import heads_of, kernel_json, kernel_table, measure_kernels
from spec_engine.bench.likeliest import likeliest_table, likeliest_values, measure_likeliest
from spec_engine.bench.limit import NUM_ROWS
from spec_engine.bench.looks import looks_json, looks_table, measure_looks
from spec_engine.bench.methods import all_methods, build_engines, build_peers, check_targets, peer_model
from spec_engine.bench.needle import measure_needles, needle_json
from spec_engine.bench.passes import PARTS, USUAL, LimitPlan, measure_parts, parse_parts
from spec_engine.bench.products import product_line, sweep_products
from spec_engine.bench.quality import measure_quality, quality_json
from spec_engine.bench.reopen import measure_reopening, reopen_json, reopen_table
from spec_engine.bench.replay import parse_means
from spec_engine.bench.report import (
    needle_table,
    quality_table,
    say,
    speed_caption,
    speed_table,
    time_table,
    work_table,
)
from spec_engine.bench.run import PLAIN, BenchPlan, Work, hardware, run_bench
from spec_engine.bench.shaped import ReplayPlan, ReplayRow, measure_replay, replay_json, replay_table
from spec_engine.bench.shapes import random_model
from spec_engine.bench.tasks import bundled_text, parse_lengths, read_texts
from spec_engine.bench.traces import record_traces, save_traces
from spec_engine.bench.tuning import sweep, sweep_line
from spec_engine.cache.store import PrefixStore
from spec_engine.cli_options import add_preset, chosen_preset, positive, progress
from spec_engine.config import GRAPH_MEMORY, DrafterKind, DTypeName, Preset, load_preset
from spec_engine.engine import Engine
from spec_engine.errors import RequestError
from spec_engine.loading import load_engine
from spec_engine.model.contest import cuda_timer
from spec_engine.model.load import pick_device, pick_dtype
from spec_engine.model.target import Target
from spec_engine.model.watch import spoken

_KERNEL_SHAPES = "Llama-3.1-8B-Instruct,Qwen3-8B,Llama-3.2-1B-Instruct,EAGLE3-LLaMA3.1-Instruct-8B"
_KERNEL_ROWS = (1, 8, 16, 32, 64)
_SWEPT_KEYS = 16_384
_LEAST_CHUNK = 512  # tokens of a prompt read at once
_Made = tuple[str, str]  # JSON, table
_ASKING = ("speed", "quality", "looks", "traces")  # kinds of measurement that ask questions …
_READING = (*_ASKING, "needle", "reopen")  # … and all that read texts
_WRITING = ("speed", "quality", "looks", "needle", "reopen", "limit", "kernels", "replay")  # a table or JSON
_READ_BY = {
    "preset": (*_READING, "limit", "replay"),
    "model": (*_READING, "limit", "replay"),
    "data": _READING,
    "texts": _READING,
    "questions": _ASKING,
    "max_tokens": ("speed", "traces", "replay"),
    "drafters": ("speed",),
    "also": ("speed", "traces"),
    "temperature": ("speed", "traces"),
    "fixed_budget": ("speed", "replay"),
    "ask": ("speed", "traces"),
    "work": ("speed", "traces"),
    "turns": ("speed",),
    "shape": ("limit", "kernels"),
    "rows": ("limit", "kernels"),
    "parts": ("limit",),
    "sweep": ("kernels",),
    "dtype": ("limit", "kernels", "replay"),
    "no_graphs": (*_READING, "limit", "replay"),
    "out": _WRITING,
    "json": _WRITING,
}


def add_bench(bench: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_preset(bench)
    bench.add_argument("--data", type=Path, help="folder of .jsonl or .txt texts (default: the bundled report)")
    bench.add_argument(
        "--lengths", default="1024,2048,4096,8192,15000", help="tokens of document (default: %(default)s)"
    )
    bench.add_argument("--texts", type=positive, default=3, help="texts a length (default: %(default)s)")
    bench.add_argument("--questions", type=positive, default=4, help="questions a text (default: %(default)s)")
    bench.add_argument("--max-tokens", type=positive, default=128, help="tokens an answer (default: %(default)s)")
    bench.add_argument(
        "--drafters",
        help=f"comma list of {', '.join(get_args(DrafterKind))}; with a minus behind it without retrieval (default: "
        "all that the preset can run)",
    )
    bench.add_argument("--also", default="", metavar="PRESET,…", help="what the preset cannot draft, as these do")
    bench.add_argument("--temperature", type=float, default=0.0, help="of all but free text (default: greedy)")
    bench.add_argument("--fixed-budget", action="store_true", help="draft the most in every step, pays it or not")
    bench.add_argument("--ask", help="ask this instead of questions about each text")
    works = ",".join(get_args(Work))
    bench.add_argument("--work", default=works, metavar="WORK,…", help="in turn; free: once a text (default: all)")
    bench.add_argument("--turns", type=positive, default=1, help="times each answer is made (default: %(default)s)")
    instead = bench.add_mutually_exclusive_group()
    instead.add_argument("--quality", action="store_true", help="count right answers instead of seconds")
    instead.add_argument("--needle", action="store_true", help="what the draft model knows of a sentence far back")
    instead.add_argument("--looks", action="store_true", help="whether the model is said to look where it quotes from")
    instead.add_argument("--reopen", action="store_true", help="how much sooner a document is back from disk")
    instead.add_argument("--limit", action="store_true", help="how close passes come to what the machine can do")
    instead.add_argument("--kernels", action="store_true", help="attention and top tokens alone, by all that runs here")
    instead.add_argument("--traces", type=Path, metavar="FILE", help="write what every draft would have brought here")
    instead.add_argument(
        "--replay", metavar="MEANS", help="speed at the preset's published sizes; tokens a step, one for each length"
    )
    bench.add_argument("--shape", metavar="NAME", help="--limit: a model of this published size with random weights; "
                       f"--kernels: a comma list, those of its heads (default: {_KERNEL_SHAPES})")  # fmt: skip
    bench.add_argument("--rows", help="--limit, --kernels: comma list of rows of a pass")
    bench.add_argument("--parts", default=",".join(USUAL), metavar="PART,…",
                       help=f"--limit: which of {', '.join(PARTS)} (default: %(default)s)")  # fmt: skip
    bench.add_argument("--sweep", type=positive, metavar="SECONDS", help="--kernels: try other cuts of ours so long")
    bench.add_argument("--dtype", choices=get_args(DTypeName), default="auto", help="--shape, --replay, --kernels")
    bench.add_argument("--no-graphs", action="store_true", help="do not capture passes as CUDA graphs")
    bench.add_argument("--out", type=Path, help="also write the result as JSON here")
    bench.add_argument("--json", action="store_true", help="print JSON instead of a table")
    bench.set_defaults(command=partial(_bench, {name: bench.get_default(name) for name in _READ_BY}))


def _bench(usual: Mapping[str, object], arguments: argparse.Namespace) -> int:
    kinds: dict[str, Callable[[argparse.Namespace], _Made]] = {
        "quality": _quality,
        "needle": _needle,
        "looks": _looks,
        "reopen": _reopen,
        "limit": _limit,
        "replay": _replay,
        "kernels": _kernels,
    }
    kind = next((kind for kind in (*kinds, "traces") if getattr(arguments, kind) not in (None, False)), "speed")
    _refuse_unread(arguments, usual, kind)
    if kind == "traces":
        return _traces(arguments)
    as_json, table = kinds.get(kind, _speed)(arguments)
    _write(arguments.out, as_json)
    say(as_json if arguments.json else table)
    return 0


def _write(out: Path | None, as_json: str) -> None:
    """What was measured so far, where a file was asked for; whole at any moment, as a run may be ended."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_name(f"{out.name}.part")
        part.write_text(as_json + "\n", "utf-8")
        part.replace(out)


def _refuse_unread(arguments: argparse.Namespace, usual: Mapping[str, object], kind: str) -> None:
    """Raise `RequestError` for an option that differs from what is `usual` and that this kind would not read."""
    here = "where answers are timed" if kind == "speed" else f"with --{kind}"
    for name, kinds in _READ_BY.items():
        if kind not in kinds and getattr(arguments, name) != usual[name]:
            others = " or ".join("a run that times answers" if other == "speed" else f"--{other}" for other in kinds)
            raise RequestError(f"--{name.replace('_', '-')} is not read {here}, but with {others}. Leave it out.")
    if kind == "limit" and arguments.shape and (arguments.preset, arguments.model) != (usual["preset"], usual["model"]):
        raise RequestError("--limit measures a --shape, or a --preset or --model, not both. Leave one of them out.")
    if kind == "limit" and not arguments.shape and arguments.dtype != usual["dtype"]:
        raise RequestError("--dtype is read with the --shape of --limit: a preset says its own. Leave it out.")
    if arguments.ask is not None and arguments.questions != usual["questions"]:
        raise RequestError("--questions is not read with --ask, which is one question a text. Leave it out.")
    if arguments.ask is not None and arguments.work != usual["work"]:
        raise RequestError("--work is not read with --ask, which is a question of its own. Leave one of them out.")


def _speed(arguments: argparse.Namespace) -> _Made:
    presets, texts, plan = _presets(arguments), _texts(arguments), _plan(arguments)
    drafters = arguments.drafters.split(",") if arguments.drafters else all_methods(presets)
    engines = build_engines(presets, drafters, arguments.device, progress, adaptive=not arguments.fixed_budget)
    peers = build_peers(presets[0], engines[PLAIN])
    report = run_bench(engines, peers, texts, plan, progress)
    report = replace(report, command=" ".join(["spec-engine", *sys.argv[1:]]))
    tables = (speed_table(report), work_table(report), time_table(report), speed_caption(report))
    return report.to_json(), "\n\n".join(filter(None, tables))


def _quality(arguments: argparse.Namespace) -> _Made:
    texts, num_questions = _texts(arguments), arguments.texts * arguments.questions
    engine = _engine(arguments)
    found = measure_quality(
        engine, texts, _lengths(arguments), num_questions, progress, questions_per_text=arguments.questions
    )
    return quality_json(found), quality_table(found)


def _needle(arguments: argparse.Namespace) -> _Made:
    texts = _texts(arguments)
    found = measure_needles(_engine(arguments, PLAIN), texts, _lengths(arguments), arguments.texts, progress)
    return needle_json(found), needle_table(found)


def _looks(arguments: argparse.Namespace) -> _Made:
    texts, num_questions = _texts(arguments), arguments.texts * arguments.questions
    found = measure_looks(_engine(arguments), texts, _lengths(arguments), num_questions, progress)
    return looks_json(found), looks_table(found)


def _reopen(arguments: argparse.Namespace) -> _Made:
    texts = _texts(arguments)
    with tempfile.TemporaryDirectory() as folder:
        store = PrefixStore(Path(folder), 1 << 40)
        found = measure_reopening(_engine(arguments), store, texts, _lengths(arguments), arguments.texts, progress)
    return reopen_json(found), reopen_table(found)


def _limit(arguments: argparse.Namespace) -> _Made:
    lengths, num_rows = _lengths(arguments), _rows(arguments, NUM_ROWS)
    parts, graph_bytes = parse_parts(arguments.parts), _graph_memory(arguments) << 20
    if arguments.shape:
        device = pick_device(arguments.device)
        dtype = pick_dtype(arguments.dtype, device, torch.bfloat16)
        chunk = max(*num_rows, _LEAST_CHUNK)
        capacity = max(lengths) + chunk
        model = random_model(arguments.shape, 2 * capacity, dtype, device)
        peer = copy.deepcopy(model) if device.type == "cpu" else model  # joined weights lie apart on a CPU
        target = Target(model, capacity, chunk, graph_bytes, may_join=True)
    else:
        engine = _engine(arguments, PLAIN)
        target, peer = engine.target, peer_model(_presets(arguments)[0], engine)
    where = f"{arguments.shape or arguments.preset}, {target.dtype}, {hardware()}, torch {torch.__version__}."
    plan = LimitPlan(lengths, num_rows, parts, graph_bytes)
    report = measure_parts(target, peer, plan, where, progress, lambda made: _write(arguments.out, made))
    return report.to_json(), report.table()


def _kernels(arguments: argparse.Namespace) -> _Made:
    device = pick_device(arguments.device)
    dtype = pick_dtype(arguments.dtype, device, torch.bfloat16)
    heads = heads_of((arguments.shape or _KERNEL_SHAPES).split(","))
    where = f"{dtype}, {hardware()}, torch {torch.__version__}. " + "; ".join(
        f"{h}: {', '.join(h.names)}" for h in heads
    )
    rows = measure_kernels(heads, _rows(arguments, _KERNEL_ROWS), _lengths(arguments), (dtype, device), progress)
    likeliest = measure_likeliest((dtype, device), progress)
    listed = likeliest_values(likeliest)
    table = f"{kernel_table(rows)}\n\n{likeliest_table(likeliest)}\n\n{where}"
    if arguments.sweep and device.type != "cuda":
        table += "\n\nNo other cuts were tried: those are of the kernels on an NVIDIA GPU."
    if not arguments.sweep or device.type != "cuda":
        return kernel_json(where, rows, likeliest=listed), table
    _write(arguments.out, kernel_json(where, rows, likeliest=listed))
    tried = sweep(heads[0], _SWEPT_KEYS, (dtype, device), arguments.sweep, progress)
    tunings = [one.values() for one in tried]
    _write(arguments.out, kernel_json(where, rows, tunings, likeliest=listed))
    made = sweep_products(heads[0].names[0], (dtype, device), arguments.sweep, cuda_timer(device), progress)
    lines = f"{table}\n\n{sweep_line(tried)}\n\n{product_line(made)}"
    return kernel_json(where, rows, tunings, [one.values() for one in made], listed), lines


def _replay(arguments: argparse.Namespace) -> _Made:
    preset, lengths, device = _presets(arguments)[0], _lengths(arguments), pick_device(arguments.device)
    means = tuple(parse_means(arguments.replay, len(lengths)))
    dtype = pick_dtype(arguments.dtype, device, torch.bfloat16)
    plan = ReplayPlan(lengths, means, arguments.max_tokens, device, dtype, arguments.fixed_budget)
    where = f"Sizes of {preset.name}, {plan.dtype}, {hardware()}, torch {torch.__version__}."

    def save(rows: Sequence[ReplayRow], graphs: str) -> None:
        _write(arguments.out, replay_json(rows, f"{where} {graphs}"))

    found, graphs = measure_replay(preset, plan, progress, save)
    return replay_json(found, f"{where} {graphs}"), replay_table(found, f"{where} {graphs}")


def _traces(arguments: argparse.Namespace) -> int:
    presets, texts, plan = _presets(arguments), _texts(arguments), _plan(arguments)
    check_targets(presets)
    arguments.traces.parent.mkdir(parents=True, exist_ok=True)
    plain = _engine(arguments, PLAIN)
    save_traces(record_traces(plain, presets, texts, plan, progress), arguments.traces)
    return 0


def _presets(arguments: argparse.Namespace) -> list[Preset]:
    presets = [chosen_preset(arguments), *(load_preset(name) for name in arguments.also.split(",") if name)]
    return [replace(preset, graph_memory=_graph_memory(arguments, preset.graph_memory)) for preset in presets]


def _graph_memory(arguments: argparse.Namespace, wanted: int = GRAPH_MEMORY) -> int:
    """MiB."""
    return 0 if arguments.no_graphs else wanted


def _plan(arguments: argparse.Namespace) -> BenchPlan:
    given = arguments
    works = tuple(name.strip() for name in given.work.split(","))
    if unknown := [name for name in works if name not in get_args(Work)]:
        raise RequestError(f"--work cannot be '{unknown[0]}'. Choose from {', '.join(get_args(Work))}.")
    return BenchPlan(
        lengths=_lengths(given),
        num_texts=given.texts,
        questions_per_text=given.questions,
        max_tokens=given.max_tokens,
        ask=given.ask,
        temperature=given.temperature,
        works=cast("tuple[Work, ...]", works),
        turns=given.turns,
    )


def _texts(arguments: argparse.Namespace) -> list[str]:
    return read_texts(arguments.data or bundled_text())


def _lengths(arguments: argparse.Namespace) -> tuple[int, ...]:
    return tuple(parse_lengths(arguments.lengths))


def _rows(arguments: argparse.Namespace, usual: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(parse_lengths(arguments.rows)) if arguments.rows else usual


def _engine(arguments: argparse.Namespace, drafter: DrafterKind | None = None) -> Engine:
    preset = _presets(arguments)[0]
    return load_engine(preset, drafter=drafter, device=arguments.device, watch=spoken(progress))
