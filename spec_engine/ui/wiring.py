"""How events are connected to what answers them.

Job: `on` for a short reaction, `one_by_one` for what is typed, `each_time` for what must not be lost, `stream` for a
generator that follows a job.
Non-job: which event does what (`handlers`).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import gradio as gr
from gradio.blocks import Block
from gradio.events import Dependency

from spec_engine.ui.views import Updates

MAX_WATCHERS: Final = 16  # open pages that can follow a job at once


def on(
    trigger: Callable[..., Dependency],
    react: Callable[..., object],
    inputs: Sequence[Block] | None,
    outputs: Sequence[Block] | None,
) -> Dependency:
    """Connect a short reaction: it waits in no queue and shows no spinner."""
    return trigger(
        react,
        inputs and list(inputs),
        outputs and list(outputs),
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )


def one_by_one(*triggers: Callable[..., Dependency]) -> Callable[..., Dependency]:
    """Several events as one trigger for `on`: while one is answered the last of the others waits, so no answer to
    older values comes after that to newer ones."""
    return partial(gr.on, list(triggers), trigger_mode="always_last")


def each_time(trigger: Callable[..., Dependency]) -> Callable[..., Dependency]:
    """An event as a trigger for `on` that counts also while the last one of its kind is being answered: a page that is
    busy with a long conversation would drop it, without a word."""
    return partial(trigger, trigger_mode="multiple")


def stream(
    trigger: Callable[..., Dependency],
    watch: Callable[..., Iterator[Updates]],
    inputs: Sequence[Block],
    outputs: Sequence[Block],
) -> Dependency:
    """Connect a generator that follows a job."""
    return trigger(
        watch,
        list(inputs),
        list(outputs),
        show_progress="hidden",
        api_visibility="private",
        concurrency_limit=MAX_WATCHERS,
        concurrency_id="watch",
    )
