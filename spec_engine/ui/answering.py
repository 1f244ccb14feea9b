"""The work of one answer: ask, write down, show.

Job: the body of an answer job, and what of an answer is kept beside its text.
Non-job: when one may begin (`workspace`), the store (`chat.store`).
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial

from spec_engine.chat.figures import lengthened
from spec_engine.chat.history import AnswerKeeper
from spec_engine.chat.session import Session
from spec_engine.chat.store import Reason
from spec_engine.events import ContextAttended, Event, Finished, TokensAccepted
from spec_engine.sampling import SamplingParams
from spec_engine.ui.logbook import LOG
from spec_engine.ui.talk import Talk
from spec_engine.ui.whereabouts import most_seen


class AnswerWork:
    """One answer in the making, or more of one: of the turn that the keeper has from before.

    Args:
        locate: names the part of the document that holds a token of the prompt; "" behind the document.
        read: what is kept with the answer of what is read for it.
    """

    def __init__(
        self,
        session: Session,
        talk: Talk,
        keeper: AnswerKeeper,
        locate: Callable[[int], str],
        read: Mapping[str, object],
    ) -> None:
        self._session = session
        self._talk = talk
        self._keeper = keeper
        self._locate = locate
        self._read = read
        self._seen: Counter[int] = Counter()  # looks of the target, by chunk of the context
        self._chunk_size = 0
        self._finished: Finished | None = None
        self._has_new = False

    def run(
        self,
        question: str,
        sampling: SamplingParams,
        max_tokens: int,
        cancelled: Callable[[], bool],
        report: Callable[[Event], None],
    ) -> str:
        """Make the answer, reporting events once they are on disk; a sentence if it could not be kept, else "". More of
        an answer needs no question; one to which nothing was added stays as it is."""
        reason: Reason = "failed"
        before, session = self._keeper.before, self._session
        num_before = len(session.turns) - (before is not None)
        make = partial(session.ask, question) if before is None else session.go_on
        try:
            for event in make(sampling=sampling, max_tokens=max_tokens, cancelled=cancelled):
                self._look_at(event)
                for shown in self._keeper.take(event):
                    report(shown)
            reason = self._finished.reason if self._finished else "cancelled"
        finally:
            for shown in self._keeper.flush():
                report(shown)
            if before is None or self._has_new:
                turns = session.turns[num_before:]
                text, token_ids = (turns[0].answer, turns[0].answer_token_ids or ()) if turns else ("", ())
                details = self._details(sampling, max_tokens)
                details = lengthened(before, details) if before else details
                self._talk.end(self._keeper, text, len(token_ids), reason, details)
        return self._keeper.trouble

    def _look_at(self, event: Event) -> None:
        """Note what an event says beside the text."""
        if isinstance(event, Finished):
            self._finished = event
        elif isinstance(event, TokensAccepted):
            self._has_new = True
        elif isinstance(event, ContextAttended):
            self._seen.update(event.chunk_ids)
            self._chunk_size = event.chunk_size

    def _details(self, sampling: SamplingParams, max_tokens: int) -> dict[str, object]:
        """Figures, settings, and the parts that the model looked at most often."""
        details: dict[str, object] = {**asdict(sampling), **self._read, "max_tokens": max_tokens}
        if self._finished:
            metrics = self._finished.metrics
            details["metrics"] = metrics.as_dict()
            figures = (metrics.num_prompt_tokens, metrics.num_reused_tokens, metrics.num_generated_tokens)
            speed = (metrics.tokens_per_second, metrics.mean_acceptance_length)
            LOG.info("answer: prompt %d, reused %d, new %d tokens, %.1f tokens/s, %.2f a pass", *figures, *speed)
        if parts := list(most_seen(self._seen, self._chunk_size, self._locate)):
            details["looked_at"] = parts
        return details
