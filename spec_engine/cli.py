"""The command line: ``spec-engine chat | ask | read | bench | presets | doctor | train``.

Job: parse, call, print. Non-job: logic; every command is a few calls into the package.

Exit status: 0 done, 2 wrong input, with one line that says so.
"""

import argparse
import json
import os
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import get_args

from spec_engine.chat.absent import absence
from spec_engine.chat.compare import Comparison, compare
from spec_engine.chat.prompt import count_document_tokens
from spec_engine.chat.session import Session, check_question
from spec_engine.cli_bench import add_bench
from spec_engine.cli_options import add_parts, add_preset, chosen_document, chosen_preset, progress
from spec_engine.cli_train import add_train
from spec_engine.config import DrafterKind, Preset, load_preset, preset_dict, preset_names, resolve_model
from spec_engine.doctor import examine
from spec_engine.documents.budget import plan
from spec_engine.engine import Engine
from spec_engine.errors import PasswordRequired, RequestError, SpecEngineError
from spec_engine.events import Finished, TokensAccepted
from spec_engine.frozen import freeze_imports
from spec_engine.loading import load_engine
from spec_engine.metrics import describe
from spec_engine.model.load import load_tokenizer
from spec_engine.model.memory import free_on
from spec_engine.model.watch import spoken
from spec_engine.sampling import SamplingParams
from spec_engine.stopping import StopRules
from spec_engine.ui.shelf import Fit, PresetShelf
from spec_engine.ui.text import gigabytes

DRAFTER_KINDS = get_args(DrafterKind)
_TIMED_TOKENS = 50  # a shorter answer says nothing about speed


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, that of the process without `argv`; returns the exit status."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if argv is None:
        freeze_imports()
    arguments = build_parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except PasswordRequired as error:
        print(f"spec-engine: {error} Use --password.", file=sys.stderr)
        return 2
    except SpecEngineError as error:
        print(f"spec-engine: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, as in `spec-engine read FILE | head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="spec-engine", description="Chat with a long document, losslessly accelerated."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    chat = commands.add_parser("chat", help="open the page", add_help=False, prefix_chars="\0")
    chat.add_argument("options", nargs=argparse.REMAINDER)
    chat.set_defaults(command=_chat)

    ask = commands.add_parser("ask", help="one question about one document")
    add_preset(ask)
    ask.add_argument("--document", type=Path, nargs="+", help="files to read; without them the question stands alone")
    add_parts(ask)
    ask.add_argument("--password", help="of an encrypted file")
    ask.add_argument("--question", required=True)
    ask.add_argument("--drafter", choices=DRAFTER_KINDS, help="instead of the preset's")
    ask.add_argument("--max-tokens", type=int, help="length of the answer at most")
    ask.add_argument("--temperature", type=float, help="0 decodes greedily")
    ask.add_argument("--top-k", type=int)
    ask.add_argument("--top-p", type=float)
    ask.add_argument("--seed", type=int)
    ask.add_argument("--verify", action="store_true", help="answer once more by plain decoding and compare the tokens")
    ask.add_argument("--json", action="store_true", help="one JSON object with the answer's token ids and metrics")
    ask.add_argument("--prompt-ids", action="store_true", help="with --json: the token ids of the whole prompt too")
    ask.set_defaults(command=_ask)

    read = commands.add_parser("read", help="show what is read from files")
    read.add_argument("file", type=Path, nargs="+")
    add_parts(read)
    read.add_argument("--password", help="of an encrypted file")
    read.add_argument("--preset", default="builtin", help="whose tokenizer counts (default: %(default)s)")
    read.add_argument("--json", action="store_true")
    read.set_defaults(command=_read)

    add_bench(commands.add_parser("bench", help="speed against plain decoding, or --quality of the answers"))
    presets = commands.add_parser("presets", help="list the presets, or show one")
    presets.add_argument("name", nargs="?")
    presets.add_argument("--json", action="store_true")
    presets.set_defaults(command=_presets)

    doctor = commands.add_parser("doctor", help="device, versions, attention backend, memory")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(command=_doctor)

    add_train(commands.add_parser("train", help="train the built-in models, or a draft for a preset's target"))
    return parser


def _chat(arguments: argparse.Namespace) -> int:
    """Run the page's own command; gradio takes seconds to import and no other command needs it."""
    sys.argv = ["spec-engine chat", *arguments.options]
    runpy.run_module("spec_engine.ui", run_name="__main__")
    return 0


def _ask(arguments: argparse.Namespace) -> int:
    preset = chosen_preset(arguments)
    sampling, max_tokens = _asked_for(preset, arguments)
    document = None if arguments.document is None else chosen_document(arguments.document, arguments)
    engine = load_engine(preset, drafter=arguments.drafter, device=arguments.device, watch=spoken(progress))
    session = Session(engine, document, context_length=engine.capacity, instruction=preset.instruction)
    prompt = session.prompt(arguments.question)
    if 0 < preset.reliable_length < len(prompt) < engine.capacity:
        progress(
            f"Note: up to {preset.reliable_length:,} tokens four of five answers of '{preset.name}' were right when "
            f"measured; this prompt has {len(prompt):,}. All are read, but the answer may quote a wrong passage."
        )
    if document is not None and (note := absence(document.text, arguments.question)):
        progress(f"Note: {note}")
    finished: Finished | None = None
    for event in session.ask(arguments.question, sampling=sampling, max_tokens=max_tokens):
        if isinstance(event, TokensAccepted) and not arguments.json:
            print(event.text, end="", flush=True)
        elif isinstance(event, Finished):
            finished = event
    assert finished is not None, "every answer ends with Finished"
    compared = _compared(engine, session, finished) if arguments.verify else None
    if arguments.json:
        answer = {
            "text": finished.text,
            "num_prompt_tokens": len(prompt),
            "token_ids": list(finished.token_ids),
            "finish_reason": finished.reason,
            "metrics": finished.metrics.as_dict(),
            "model_path": resolve_model(preset, preset.target),
        }
        if arguments.prompt_ids:
            answer["prompt_token_ids"] = prompt
        if compared is not None:
            answer["verify"] = asdict(compared) | {"identical": compared.difference is None}
        print(json.dumps(answer))
    else:
        print(f"\n\n{describe(finished.metrics)}", file=sys.stderr)
        if compared is not None:
            print(_verdict(compared), file=sys.stderr)
    return 1 if compared is not None and compared.difference is not None else 0


def _compared(engine: Engine, session: Session, finished: Finished) -> Comparison:
    """The answer against the same one by plain decoding."""
    events = list(session.replay(engine.with_drafter("none")))
    plain = events[-1]
    assert isinstance(plain, Finished), "every answer ends with Finished"
    return compare(finished, plain, session.last_prompt_token_ids, engine.logits_after)


def _verdict(result: Comparison) -> str:
    """The comparison in one line."""
    is_timed = result.plain_rate > 0 and result.num_compared >= _TIMED_TOKENS
    speed = f"{result.drafted_rate / result.plain_rate:.2f} times as fast" if is_timed else "too few to time"
    found = result.difference
    if found is None:
        return f"Identical to plain decoding: {result.num_compared:,} tokens, {speed}."
    return (
        f"Differs from plain decoding at token {found.index + 1:,} of {result.num_compared:,}: id {found.drafted_id} "
        f"(logit {found.drafted_logit:.4f}) instead of {found.plain_id} ({found.plain_logit:.4f})."
    )


def _asked_for(preset: Preset, arguments: argparse.Namespace) -> tuple[SamplingParams, int]:
    """How to sample and how many tokens at most: the preset's way with what was given on the command line. Raises
    `RequestError` for what cannot be asked, so that no model is loaded for it."""
    check_question(arguments.question)
    if arguments.prompt_ids and not arguments.json:
        raise RequestError("--prompt-ids is read with --json. Give both, or leave it out.")
    defaults = preset.generation
    given = {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p", "seed")}
    values = {name: getattr(defaults, name) if value is None else value for name, value in given.items()}
    if values["seed"] < 0:
        raise RequestError(f"seed is {values['seed']}, it must be at least 0. Choose another value.")
    rules = StopRules(defaults.max_tokens if arguments.max_tokens is None else arguments.max_tokens)
    sampling = SamplingParams(**values, min_p=defaults.min_p, repetition_penalty=defaults.repetition_penalty)
    return sampling, rules.max_tokens


def _read(arguments: argparse.Namespace) -> int:
    document = chosen_document(arguments.file, arguments)
    preset = load_preset(arguments.preset)
    tokenizer = load_tokenizer(preset, preset.target)
    budget = plan(document, partial(count_document_tokens, tokenizer), preset.context_length, 0)
    if arguments.json:
        blocks = [{"anchor": block.anchor.label, "text": block.text} for block in document.blocks]
        problems = [problem.message for problem in document.problems]
        counted = {"num_tokens": budget.num_tokens, "is_exact": budget.is_exact}
        print(json.dumps({"title": document.title, "blocks": blocks, **counted, "problems": problems}))
        return 0
    first = arguments.parts[0] if arguments.parts else 1
    for number, block in enumerate(document.blocks, first):
        print(f"[{number}: {block.anchor.label}]\n{block.text}\n")
    for problem in document.problems:
        print(f"Note: {problem.message}", file=sys.stderr)
    size = f"{'' if budget.is_exact else 'about '}{budget.num_tokens:,} tokens"
    print(f"{size} for preset '{preset.name}' ({preset.context_length:,} of context)", file=sys.stderr)
    return 0


def _presets(arguments: argparse.Namespace) -> int:
    presets = [load_preset(name) for name in ([arguments.name] if arguments.name else preset_names())]
    if arguments.json:
        print(json.dumps([preset_dict(preset) for preset in presets], indent=1))
        return 0
    shelf, width = PresetShelf(presets, free=partial(free_on, "auto")), max(len(preset.name) for preset in presets)
    fits = [shelf.fit(preset) for preset in presets]
    for preset, fit in zip(presets, fits, strict=True):
        memory = gigabytes(fit.need.total) if fit.need else "unknown"
        verdict = "" if fit.need is None or fit.free is None else "fits" if fit.is_enough else "too large"
        print(f"{preset.name:{width}}  {memory:>7}  {verdict:9}  {preset.title}\n{'':{width}}  {preset.description}")
        if arguments.name:
            print("\n".join(f"{'':{width}}  {line}" for line in _details(fit)))
    if fits[0].free is not None:
        print(f"\nMemory: weights, draft and a full context. Free on this machine's device: {gigabytes(fits[0].free)}.")
    return 0


def _details(fit: Fit) -> Iterator[str]:
    """More about a preset, line by line."""
    preset = fit.preset
    yield f"target {preset.target.id}, draft {preset.draft.kind}"
    reliable = f", reliable up to {preset.reliable_length:,}" if preset.reliable_length else ""
    yield f"{preset.context_length:,} tokens of context{reliable}"
    if fit.need:
        yield "memory: " + ", ".join(f"{name} {gigabytes(size)}" for name, size in fit.need.parts if size)
    yield "on this machine" if fit.is_here else "to be downloaded"


def _doctor(arguments: argparse.Namespace) -> int:
    findings = examine()
    if arguments.json:
        print(json.dumps(findings))
        return 0
    for name, value in findings.items():
        print(f"{name:24} {value}")
    return 0
