"""The model side of what the page works on: loading, exchanging and giving up engines.

Job: `ModelSide`: `switch` and what belongs to it.
Non-job: reading models (`loading.load_engine`), documents (`papers`), answers (`workspace`).

The engine in use stays until the new one is there if the memory holds both, and is freed first if not. When a load
fails or is stopped, the preset before is in use again.
"""

from collections.abc import Callable

from spec_engine.chat.history import History
from spec_engine.chat.prompt import reuse_trouble
from spec_engine.config import GenerationDefaults, Preset
from spec_engine.errors import SpecEngineError, Stopped
from spec_engine.model.memory import reclaim
from spec_engine.model.watch import LoadProgress, LoadWatch
from spec_engine.ui import text
from spec_engine.ui.apart import Apart
from spec_engine.ui.carried import carried, told
from spec_engine.ui.engines import EngineLoader, PageEngine
from spec_engine.ui.job import Job
from spec_engine.ui.opened import measured_for
from spec_engine.ui.state import Fact, PageState


class _OldEngine:
    """The memory of the engine in use, for a load that needs it."""

    def __init__(self, state: "ModelSide", is_unwanted: Callable[[], bool]) -> None:
        self._state = state
        self._is_unwanted = is_unwanted

    @property
    def num_bytes(self) -> int:
        """What freeing it would bring."""
        return self._state.engine_bytes

    def free(self) -> None:
        """Free it, unless the load was stopped in the meantime."""
        self._state.free_engine(self._is_unwanted)


class ModelSide(PageState):
    """The state, and what changes its engine.

    Args:
        load: loads an engine.
        history: where conversations are kept; None forgets them when the process ends.
        on_loaded: told the preset of each engine that was put in use.
    """

    def __init__(
        self,
        load: EngineLoader,
        history: History | None = None,
        *,
        on_loaded: Callable[[Preset], None] = lambda preset: None,
    ) -> None:
        super().__init__(history)
        self._load_engine = load
        self._on_loaded = on_loaded
        self._loads = Apart()
        self._brought: GenerationDefaults | None = None  # the settings of the preset that was put in use last
        self._can_wait = False  # whether a running load will still open what is asked for

    def switch(self, preset: Preset, otherwise: Preset | None = None) -> Job[Fact]:
        """Load a preset's engine in place of the present one, or `otherwise` if that fails and there is no present one.
        Document and chat are kept."""
        with self._lock:
            self._require_idle()
            self.offered = None
            self._can_wait = True
            return self._begin(Job("load", lambda job: self._load(job, preset, otherwise), after=self.read_ahead))

    def open_waiting(self, job: Job[Fact]) -> bool:
        """Open what was wanted while the job loaded; False when nothing was, and then nothing will be."""
        return False

    def read_ahead(self) -> Job[Fact] | None:
        """Have the engine read what the next prompt begins with, if it can."""
        return None

    @property
    def engine_bytes(self) -> int:
        """Memory of the engine in use, as it was measured when it was loaded."""
        return self.memory.total if self.memory else 0

    def free_engine(self, is_unwanted: Callable[[], bool]) -> None:
        """Close the engine in use for a load. Raises `Stopped` when that load is not wanted any more."""
        with self._lock:
            if is_unwanted():
                raise Stopped(text.LOADING_STOPPED)
            engine, self._engine, self._session, self.memory = self._engine, None, None, None
            self.opened = self.opened.unmeasured() if self.opened else None
        if engine:
            engine.close()
            del engine
            reclaim()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _load(self, job: Job[Fact], preset: Preset, otherwise: Preset | None) -> None:
        """The loading job."""
        try:
            self._exchange(job, preset, otherwise)
        finally:
            while self.open_waiting(job):
                pass

    def _exchange(self, job: Job[Fact], preset: Preset, otherwise: Preset | None) -> None:
        """Load, and on failure, foreseen or not, go back to the preset before."""
        before = self.preset if self._engine else otherwise
        reason: str | None = text.UNEXPECTED
        try:
            reason = self._try_install(job, preset)
        finally:
            if reason is not None:
                is_stopped = reason in (text.LOADING_STOPPED, text.DOWNLOAD_STOPPED)
                failed = text.LOADING_FAILED.format(title=preset.title, reason=reason)
                self._trouble = reason if is_stopped else failed
                self._go_back(job, before, text.LOADED_INSTEAD if before is otherwise else text.LOADED_AGAIN)

    def _go_back(self, job: Job[Fact], before: Preset | None, loaded: str) -> None:
        """Have an engine in use again after a load that failed, and say which."""
        job.rearm()  # a second stop, from now on, ends this too
        with self._lock:
            if self._engine is not None and self.preset is not None:
                self._trouble += f" {text.STILL_LOADED.format(title=self.preset.title)}"
                return
            self.preset = None
            if before is None or self._is_closing:
                return
        again = self._try_install(job, before)
        words = loaded.format(title=before.title)
        nor = text.NOR_LOADED.format(title=before.title, reason=again)
        self._trouble += f" {words if again is None else nor}"

    def _try_install(self, job: Job[Fact], preset: Preset) -> str | None:
        """Load a preset's engine; the reason when that is impossible. No part of a failed engine stays in memory."""
        try:
            self._install(job, preset)
            return None
        except Stopped:
            has_downloaded = any(isinstance(fact, LoadProgress) and fact.files for fact in job.facts)
            return text.DOWNLOAD_STOPPED if has_downloaded else text.LOADING_STOPPED
        except SpecEngineError as error:
            return str(error)
        except (RuntimeError, OSError, MemoryError) as error:  # torch runs out of memory by RuntimeError
            return text.LOADING_BROKE.format(reason=str(error).partition("\n")[0])

    def _install(self, job: Job[Fact], preset: Preset) -> None:
        """Load a preset's engine, measure the document with its tokenizer, and put both in use."""
        job.report(LoadProgress(f"Loading {preset.title}"))

        def load(is_unwanted: Callable[[], bool]) -> PageEngine:
            reclaim()  # what an earlier load that was let go of may have left
            return self._load_engine(preset, LoadWatch(job.report, is_unwanted), _OldEngine(self, is_unwanted))

        engine = self._loads.run(
            load,
            job.is_cancelled,
            discard=lambda late: late.close(),
            on_wait=lambda: job.report(LoadProgress(text.LETTING_GO)),
        )
        opened = measured_for(self.opened, engine, preset) if self.opened else None
        with self._lock:
            if self._is_closing:
                engine.close()
                raise Stopped(text.LOADING_STOPPED)
            old, self._engine, self.preset = self._engine, engine, preset
            self._use_settings(preset)
            self.baseline, self.comparison, self.answer_job, self._measured_behind = None, None, None, None
            self.race_job = self._going_on = None  # lanes, and stretches, of the model before
            self.memory, self.opened = engine.memory, opened
            self.reuse_trouble = reuse_trouble(engine.tokenizer)
            self._session = self._new_session(len(self.talk.path))
        if old:
            old.close()
        self._on_loaded(preset)

    def _use_settings(self, preset: Preset) -> None:
        """Have answers follow the settings of a preset, but for the user's own, and say what that changes."""
        before, brought, own = self.settings, self._brought, preset.generation
        self.settings = carried(own, brought or GenerationDefaults(), before)
        self.remark = "" if brought in (None, own) else told(preset.title, own, before, self.settings)
        self._brought = own

    def close(self) -> None:
        """Stop what runs and free the engine; one that is still at work after five seconds is left alone."""
        with self._lock:
            self._is_closing = True
        job = self.active_job
        if job:
            job.stop()
        has_ended = job is None or job.join(5.0)
        with self._lock:
            engine, self._engine, self._session = self._engine, None, None
        if engine and has_ended:
            engine.close()
        self._history.close()
