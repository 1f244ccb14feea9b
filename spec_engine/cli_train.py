"""``spec-engine train``: its options, and which part of `spec_engine.train` does the work.

Job: from arguments to a job. Non-job: training (train/builtin.py, train/heads.py).
"""

import argparse
from dataclasses import replace
from pathlib import Path

from spec_engine.cli_options import add_preset, chosen_preset, minutes, positive, progress
from spec_engine.errors import TrainingError
from spec_engine.train.builtin import TrainingJob, parse_stages, train_builtin
from spec_engine.train.eagle3 import Eagle3Training
from spec_engine.train.heads import HeadJob, Method, train_head
from spec_engine.train.longspec import LongSpecTraining
from spec_engine.train.small_lm import SmallLMTraining

DRAFTS = ("longspec", "eagle3", "lm")


def add_train(train: argparse.ArgumentParser) -> None:
    """The options of the command."""
    train.add_argument("part", choices=("tokenizer", "target", "draft", "all", *DRAFTS))
    add_preset(train)
    train.add_argument("--corpus", type=Path, required=True, help=".jsonl(.xz) with 'text', a text file or a folder")
    train.add_argument("--out", type=Path, default=Path("runs/builtin"), help="default: %(default)s")
    train.add_argument("--stages", help="LENGTH:ROWS:MILLION_TOKENS,… instead of the recipe's")
    train.add_argument("--init", type=Path, help="folder of weights to start from")
    train.add_argument(
        "--minutes", type=minutes, default=0.0, help="pass through the stages in so long (default: by tokens)"
    )
    train.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")
    train.add_argument("--window", type=positive, help="longspec: tokens it sees (default: 512)")
    train.add_argument("--no-anchor-offset", action="store_true", help="longspec: train at ordinary positions")
    train.add_argument("--no-noise", action="store_true", help="longspec: show it all of the target's rows in training")
    train.add_argument("--draft-vocab", type=positive, metavar="N", help="eagle3: draft only the N likeliest tokens")
    train.add_argument("--hidden", type=positive, help="lm: its hidden size (default: 256)")
    train.add_argument("--layers", type=positive, help="lm: how many it has (default: 2)")
    train.set_defaults(command=_train)


def _train(arguments: argparse.Namespace) -> int:
    _refuse_strangers(arguments)
    stages = parse_stages(arguments.stages) if arguments.stages else None
    if arguments.part in DRAFTS:
        if arguments.init is not None:
            raise TrainingError(
                "A draft for a target begins with fresh weights. Leave --init out; a run goes on by itself."
            )
        lm = SmallLMTraining()
        methods: dict[str, Method] = {
            "longspec": LongSpecTraining(
                not arguments.no_anchor_offset, not arguments.no_noise, arguments.window or LongSpecTraining().window
            ),
            "eagle3": Eagle3Training(draft_vocab_size=arguments.draft_vocab),
            "lm": SmallLMTraining(arguments.hidden or lm.hidden_size, arguments.layers or lm.num_layers),
        }
        out = arguments.out / arguments.part
        job = HeadJob(chosen_preset(arguments), arguments.corpus, out, methods[arguments.part])
        job = replace(job, stages=stages or job.stages, threads=arguments.threads, device=arguments.device)
        job = replace(job, limit_s=60 * arguments.minutes)
        train_head(job, log=progress)
        return 0
    train_builtin(
        TrainingJob(
            part=arguments.part, corpus=arguments.corpus, out=arguments.out, initial=arguments.init,
            stages=stages, threads=arguments.threads, limit_s=60 * arguments.minutes,
        ),
        log=progress,
    )  # fmt: skip
    return 0


_BELONGS = {
    "window": "longspec", "no_anchor_offset": "longspec", "no_noise": "longspec", "draft_vocab": "eagle3",
    "hidden": "lm", "layers": "lm",
}  # fmt: skip


def _refuse_strangers(arguments: argparse.Namespace) -> None:
    """Raise `TrainingError` for an option of another part, which would change nothing."""
    for name, part in _BELONGS.items():
        if getattr(arguments, name) and arguments.part != part:
            option = f"--{name.replace('_', '-')}"
            raise TrainingError(
                f"{option} is for 'train {part}'; 'train {arguments.part}' does not read it. Leave it out."
            )
