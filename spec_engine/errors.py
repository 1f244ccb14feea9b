"""Every error this package raises on purpose, as one tree.

Job: give callers one base class to catch and users one message that says what happened, why, and what to do next.
Non-job: assertions about our own bugs, which stay ``AssertionError``.

    SpecEngineError
    ├── DocumentError            a file cannot become a document
    │   ├── UnsupportedFormat
    │   ├── UnreadableDocument
    │   └── PasswordRequired
    ├── PresetError              a preset file or name is wrong
    ├── ModelError               a model cannot be loaded or used
    │   ├── ModelNotFound
    │   ├── ModelDownloadError
    │   ├── UnsupportedModel
    │   ├── VocabularyMismatch
    │   └── MissingDependency
    ├── RequestError             a generation request cannot be served
    │   └── ContextOverflow
    ├── StoreError               the history on disk cannot be read or written
    ├── TrainingError            a training run cannot start or go on
    └── Stopped                  the user stopped it; nothing is broken
"""


class SpecEngineError(Exception):
    """Base of all deliberate errors; ``str(error)`` is fit to be shown to a user."""


class DocumentError(SpecEngineError):
    """A file cannot become a document."""


class UnsupportedFormat(DocumentError):
    """The file is of a kind that no reader handles."""


class UnreadableDocument(DocumentError):
    """The file is missing, empty, damaged, or holds no text."""


class PasswordRequired(DocumentError):
    """The file is encrypted and no password, or a wrong one, was given."""


class PresetError(SpecEngineError):
    """A preset is unknown, or its file holds a wrong key or value."""


class ModelError(SpecEngineError):
    """A model cannot be loaded or used."""


class ModelNotFound(ModelError):
    """Neither a local folder nor a repository on the hub has this name, or access to it was refused."""


class ModelDownloadError(ModelError):
    """The hub could not be reached, or a transfer broke off."""


class UnsupportedModel(ModelError):
    """The architecture cannot follow a draft tree, or never calls the attention function."""


class VocabularyMismatch(ModelError):
    """Target and draft do not share their token ids."""


class MissingDependency(ModelError):
    """An optional package is needed; the message names the line that installs it."""


class RequestError(SpecEngineError):
    """A generation request cannot be served as it stands."""


class ContextOverflow(RequestError):
    """Prompt and answer together do not fit the context; nothing was cut."""


class StoreError(SpecEngineError):
    """The history on disk cannot be read or written, or what is asked of it does not exist."""


class TrainingError(SpecEngineError):
    """A training run cannot start or go on."""


class Stopped(SpecEngineError):
    """The user stopped it; nothing is broken."""
