"""Every sentence that the page shows, and how its figures are spelled.

Job: wording and number formats.
Non-job: the explanation behind each term (`terms`), markup (`render`, `readouts`), deciding when something is shown
(`handlers`).
"""

from collections.abc import Sequence
from typing import Final

TITLE: Final = "Long-document chat"
TO_THE_CHAT: Final = "Go to the chat"
FOLD: Final = "Document, model and settings"
TAGLINE: Final = "Ask a whole report. Drafting makes answers fast; the text stays word for word the large model's own."

# --- document ---------------------------------------------------------------------------------------------------------
DROP_LABEL: Final = "Drop a report here, or choose a file"
PASTE_LABEL: Final = "Paste a text"
PASTE_WORDS: Final = "The text"
PASTE_NAME: Final = "Its name, if you like"
PASTE_BUTTON: Final = "Use this text"
PASTE_ADD_BUTTON: Final = "Add it to the document"
PASTED_NAME: Final = "Pasted text"
PASTED_WITHOUT_NAME: Final = "Pasted – {beginning}"
PASTE_EMPTY: Final = "There is no text yet. Paste or type it into the box first."
PASTE_FAILED: Final = "The text could not be put down as a file: {reason}. Free some space; it is still in its box."
ADD_BUTTON: Final = "Add another file"
ADD_NOTE: Final = "A new conversation begins about all of it; this one stays under Conversations."
ADDED_ALREADY: Final = "Nothing was added: {names} is in the document already."
ADDED_WITHOUT: Final = "{names} was in the document already and was not added again."
ADDED_TO_PART: Final = "What was added undid your choice of parts: it is about all of the document again."
OTHER_DOCUMENT: Final = "Another tab opened another document; this page shows it now. Nothing was added to it."
THEME_LABEL: Final = "Dark colours"
SAMPLE_BUTTON: Final = "Try the sample report"
NOT_AN_UPLOAD: Final = "That file was not sent by this page. Drop it here, or start the app with --document FILE."
NO_PLACE: Final = "This place is not in the document that is open. Reload the page."
PLACE_TEXT: Final = "The text as the model reads it"
PLACE_PICTURE: Final = "{label}, with the passage marked"
PAGE_PICTURE: Final = "{label} as it is printed"
LOOKS_AT: Final = "Most looked at:"
LOOKED_AT: Final = "looked at"
PREVIEW_LABEL: Final = "Search what was read"
FIND_LABEL: Final = "Search the document"
FIND_BUTTON: Final = "Search"
FIND_NOTHING: Final = "“{words}” does not stand in what was read."
FIND_FIRST: Final = ", of which the first {number} are listed"
FIND_NUMBER: Final = "{number} of {all}"
FIND_BACK: Final = "‹ All places of “{words}”"
PARTS_HEADING: Final = "All parts and their tokens"
PREVIEW_CHARS: Final = 6000
NO_DOCUMENT: Final = "No document yet. PDF, Word, PowerPoint, EPUB, HTML, e-mail or text; it stays on this machine."
LONG_FOR_MODEL: Final = (
    "Up to {reliable} tokens four of five answers of this model were right when measured. All {num_tokens} are "
    "read, but the longer the document, the more often it quotes a wrong passage. "
    "Check what it says, or choose a larger model."
)
OPENING_FILE: Final = "Reading {name}: {done:,} of {all:,} parts"
OPENING_STOPPED: Final = "Opening was stopped; nothing has changed."
NOTHING_LOCKED: Final = "No file waits for a password. Drop it here again."
COUNTING_TOKENS: Final = "Counting the document's tokens"
COUNTING: Final = "Tokens are counted once the model is loaded."
PASSWORD_LABEL: Final = "This file is locked. Its password:"
PASSWORD_BUTTON: Final = "Unlock"
PAGE_ASKS: Final = "The page asks for it."
PASSWORD_EMPTY: Final = "Type the password of the file first."
LOCKED_KEPT: Final = (
    "Locked by a password, which is not kept. Nothing that is computed of it goes to the disk, so it is read anew "
    "whenever it is opened. Questions and answers are kept, unlocked, until you delete the conversation."
)
RANGE_HEADING: Final = "Choose the part to read. Nothing is cut unless you say so."
RANGE_FIRST: Final = "From"
RANGE_LAST: Final = "To"
RANGE_REVERSED: Final = "The last part lies before the first one."
RANGE_BUTTON: Final = "Use this part"
RANGE_ALL_BUTTON: Final = "Take it all"

# --- presets ----------------------------------------------------------------------------------------------------------
PRESET_TOO_LARGE: Final = "needs {needs}, {free} are free"
PRESET_TO_DOWNLOAD: Final = "to be downloaded"
PRESET_UNKNOWN: Final = "size unknown"
NEED_SENTENCE: Final = "{title} needs {needs} of memory with its context of {tokens} tokens; {free} are free."
NEED_INSTEAD: Final = "What would fit instead:"
NEED_NOTHING: Final = "Nothing of it would fit here; choose a smaller model."
NEED_ANYWAY: Final = "Load it all the same"
PRESET_NO_FOLDER: Final = "There is no folder for presets of your own. Start the app with --data-dir FOLDER."
PRESET_NAME_RULE: Final = (
    "Give the preset a name of lower-case letters, digits, dots and dashes, 40 at most, for example my-model."
)
PRESET_TAKEN: Final = "'{name}' is a preset that comes with the app or was given with --preset. Choose another name."
PRESET_NOT_OWN: Final = "Only presets of your own can be deleted. Choose one of them under Model."
PRESET_VALID: Final = "This is a valid preset: {title}, target {target}, drafts by {kind}, {context} tokens of context."
PRESET_SAVED: Final = "Saved; it can be chosen under Model."
PRESET_DELETED: Final = "Deleted."
EDITOR_LABEL: Final = "Your own models"
EDITOR_HELP: Final = (
    "A preset pairs a model with a drafter. Change this copy of the model above, give it a name and save it. Models "
    "are named by their id on the Hugging Face hub, or by a folder."
)
EDITOR_NAME: Final = "Name"
EDITOR_SOURCE: Final = "Preset (TOML)"
EDITOR_COPY: Final = "Copy the model above"
EDITOR_SAVE: Final = "Save"
EDITOR_DELETE: Final = "Delete …"
EDITOR_DELETE_ASKS: Final = "Delete the preset “{name}” for good?"

# --- chat -------------------------------------------------------------------------------------------------------------
QUESTION_LABEL: Final = "Your question"
ASK_READY: Final = "Ask about the document"
ASK_NEEDS_DOCUMENT: Final = "First drop a document"
ASK_NEEDS_FIT: Final = "First choose a part that fits"
ASK_NEEDS_ENGINE: Final = "The model is not loaded yet"
ASK_NEEDS_OPENING: Final = "The document is being opened"
ASK_BUTTON: Final = "Ask"
STOP_BUTTON: Final = "Stop"
CONTINUE_BUTTON: Final = "Continue"
NEW_CHAT_BUTTON: Final = "New chat"
WELCOME: Final = "Chat with a long document"
KEYS_HINT: Final = (
    "Enter asks, Esc stops, Alt+C continues a cut answer, Alt+N begins a new chat, / goes to the question."
)
WELCOME_STEPS: Final = (
    (
        "Drop a report,",
        "paste a text, or try the sample. All of it is read into the model's context; nothing is cut or left out.",
    ),
    ("Ask.", "The answer streams in. The document is read once; further questions start at once."),
    (
        "See why it is fast:",
        "how many drafted tokens were confirmed, and the measured speed-up, beside the chat or, in a narrow window, "
        "below it.",
    ),
)
BUSY: Final = "An answer is still being written. Stop it first, or wait until it is finished."
BUSY_RACING: Final = "A race is running. Stop it first, or wait until it is finished."
OTHER_VIEW: Final = (
    "Another tab opened another conversation or document; this page shows it now. Nothing was asked. Send it again if "
    "it is meant for this one."
)
OTHER_CONVERSATION: Final = (
    "Another tab opened another conversation or document; this page shows it now. Nothing was deleted."
)
RACING: Final = "The race is running; its lanes are below the conversation"
BUSY_LOADING: Final = "A model is being loaded. This can be done once it is ready, or once you have stopped it."
OPENS_LATER: Final = "The document is opened as soon as the model is loaded, or its loading is stopped."
BUSY_OPENING: Final = "A document is being opened. This can be done once it is there, or once you have stopped it."
BUSY_OPENING_ASK: Final = "The document is still being opened; the question is kept. Send it once it is there."
NOT_OPENED: Final = "The document was not opened; the question is kept."
EMPTY_QUESTION: Final = "Type a question first."
STOPPED_EARLY: Final = "Stopped before the first word; the question is back in the box."
STOPPED_EDIT: Final = "Stopped before the first word; the edited question is in the box, to be asked behind the others."
STOPPED_WHILE_TYPING: Final = "Stopped before the first word. What you type was left alone."
QUESTION_WAS: Final = "The question was: {question}"
REACHED_LIMIT: Final = "The answer ends here because it reached its limit, {tokens}."
REACHED_ANOTHER: Final = "The answer ends here, at {tokens}, because what was added reached its limit."
FILLED_CONTEXT: Final = "The answer ends here because the context that it was written in was full."
REACHED_CONTEXT: Final = (
    "The answer ends here because the context is full. Start a new chat, choose a smaller part of the document, or use "
    "a model with a longer context."
)
OTHER_MODEL_WROTE: Final = (
    "Another model wrote it: load that one to continue it, or have it written again with the arrow below it."
)
NOTHING_TO_CONTINUE: Final = "There is no answer that was cut. Ask a question first."
UNEXPECTED: Final = (
    "Something went wrong that was not foreseen. The details are in the terminal that started this page. "
    "The chat is kept; asking again may work."
)
AUTHORS_LABEL: Final = "Who wrote which token"
AUTHORS_EMPTY: Final = "Ask something: the answer appears here token by token, coloured by who proposed it."
AUTHORS_OF: Final = "Of the answer to"
AUTHORS_UNKNOWN: Final = "This answer was written by another model; load it to see its tokens."
SETTINGS_LABEL: Final = "Settings"
MAX_TOKENS_LABEL: Final = "Longest answer, in tokens"
TEMPERATURE_LABEL: Final = "Temperature (0 = always the likeliest word)"
SEED_LABEL: Final = "Seed"

# --- history ----------------------------------------------------------------------------------------------------------
HISTORY_LABEL: Final = "Conversations"
BROKEN_OFF: Final = "This answer was broken off when the program ended. What had been shown is here."
HISTORY_SEARCH: Final = "Search titles, files, questions, answers"
NOTHING_FOUND: Final = "Nothing found for “{words}”."
TITLE_LABEL: Final = "Title of this conversation"
RENAME_BUTTON: Final = "Rename"
DELETE_BUTTON: Final = "Delete …"
DELETE_ASKS: Final = "Delete the conversation “{title}” for good?"
DELETE_REALLY: Final = "Delete for good"
DELETE_NOT: Final = "Keep it"
EXPORT_LABEL: Final = "Save as"
BRANCHES_LABEL: Final = "Branches of this conversation"

# --- server -----------------------------------------------------------------------------------------------------------
OPEN_TO_ALL: Final = (
    "Everyone who can reach this machine can read the document and the chat: there is no password. "
    "Give one with --auth."
)
OPEN_WITH_PASSWORD: Final = (
    "Everyone who can reach this machine and knows the password can read the document and the chat. The connection is "
    "not encrypted: use it in a network that you trust."
)

# --- engine -----------------------------------------------------------------------------------------------------------
PRESET_LABEL: Final = "Model"
STARTING: Final = "Starting"
READING_AHEAD: Final = "Reading the document ahead; ask whenever you like"
MEASURING_PLAIN: Final = "Measuring plain decoding"
DRAFTING_PAUSED: Final = "Drafting off"
LOADING_FAILED: Final = "{title} could not be loaded. {reason}"
LOADING_STOPPED: Final = "Loading was stopped."
DOWNLOAD_STOPPED: Final = "Loading was stopped; what was downloaded is kept."
STILL_LOADED: Final = "{title} stays loaded."
SETTING_NAMES: Final[dict[str, str]] = {
    "max_tokens": "at most {} tokens",
    "temperature": "temperature {}",
    "top_k": "top-k {}",
    "top_p": "top-p {}",
    "min_p": "min-p {}",
    "repetition_penalty": "repetition penalty {}",
    "seed": "seed {}",
}
SETTING_WAS: Final = "it was {before}"
SETTINGS_BROUGHT: Final = "{title} brings settings of its own for answers: {changes}."
SETTINGS_STAY: Final = "Your own stay: {settings}."
GOES_ON_OTHERWISE: Final = "The answer goes on with {now}; what was there was written with {before}."
SETTINGS_LIMITS: Final = "Used: at most {tokens}, temperature {temperature:g}, seed {seed}."
LOADED_INSTEAD: Final = "{title} is loaded instead."
LOADED_AGAIN: Final = "{title} is loaded again."
NOR_LOADED: Final = "Nor could {title} be loaded. {reason}"
LETTING_GO: Final = "Letting go of the model whose loading was stopped"
LOADING_BROKE: Final = (
    "The machine gave up: {reason}. It may lack the memory; close other programs or choose a smaller model."
)
ANSWER_NUMBER: Final = " (answer {number})"
COMPARE_BUTTON: Final = "Race against plain decoding"
RACE_HEADING: Final = "The same question, one run after the other on this machine"
RACE_PLAIN: Final = "Plain decoding"
RACE_DRAFTED: Final = "Drafting"
RACE_WITHOUT: Final = "Drafting, no retrieval"
RACE_WITH: Final = "Drafting with retrieval"
RACE_READING: Final = "reading"
RACE_WAITING: Final = "waits for its turn"
RACE_STOPPED: Final = "stopped"
RACE_NOT_RUN: Final = "not run"
RACE_AGAIN: Final = "A run is over too soon to tell its speed, so lanes run some more times."
RACE_TIMED: Final = (
    "A run is over too soon to tell its speed, so speeds are those of the middle one of up to {runs} runs."
)
RACE_TIMED_TWICE: Final = "A run is over too soon to tell its speed, so speeds are those of the faster one of two runs."
RACE_UNTIMED: Final = "A run is over too soon to tell its speed, and the race was over before it was known."
NOTHING_TO_REPEAT: Final = "There is no answer to repeat yet. Ask a question first."
SAME_ANSWER: Final = (
    "The temperature is 0, so the answer would be the same word for word. Raise it under Settings for another one."
)
OTHER_SEED: Final = "Drawn with seed {seed}, now under Settings: with seed {before} the answer would be the same."
NO_ANSWER_TO_COMPARE: Final = "Ask something first; the comparison repeats the last answer without drafting."
IS_PLAIN_ALREADY: Final = "Drafting is off for this model, so there is nothing to compare."
RACE_OTHER_MODEL: Final = "Another model gave this answer, so it cannot be raced. Ask again to race this model's."
RACE_OTHER_DOCUMENT: Final = "This answer is about another document, or other parts of it, so it cannot be raced now."
RACE_NOT_KEPT: Final = "The tokens of this answer were not kept, so it cannot be raced. Ask again to race a new one."

DRAFTER_NAMES: Final[dict[str, str]] = {
    "lm": "small model",
    "eagle3": "draft head",
    "longspec": "draft head",
    "mtp": "draft head",
    "lookup": "copy from context",
    "blend": "model and copies",
    "none": "none",
}
REASONS: Final[dict[str, str]] = {
    "stop": "finished",
    "length": "reached the length limit",
    "cancelled": "stopped by you",
}


def shortened(words: str, most: int) -> str:
    """At most that many characters, the last of them an ellipsis where some were left out."""
    return words if len(words) <= most else f"{words[: most - 1].rstrip(' .')}…"


def count(number: int) -> str:
    """An integer with thousands separators."""
    return f"{number:,}"


def plural(number: int, noun: str) -> str:
    """'1 part', '3 parts'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def rate(tokens_per_second: float) -> str:
    """A speed with as many digits as are worth reading."""
    if tokens_per_second >= 100:
        return f"{tokens_per_second:,.0f}"
    return f"{tokens_per_second:.1f}" if tokens_per_second >= 1 else f"{tokens_per_second:.2f}"


def seconds(value: float) -> str:
    """A duration as a person says it."""
    if value < 1:
        return f"{value:.2f} s"
    if value < 10:
        return f"{value:.1f} s"
    if value < 90:
        return f"{value:.0f} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 90 else f"{value / 3600:.1f} h"


def left(value: float) -> str:
    """How long something will take yet, no finer than that is known."""
    return f"{value:.0f} s left" if value < 90 else f"{seconds(value)} left"


def transfer(num_done: int, num_bytes: int) -> str:
    """Bytes that are here, of how many: '3.2 of 16.1 GB'."""
    unit, name = (1e9, "GB") if num_bytes >= 1e9 else (1e6, "MB")
    return f"{num_done / unit:,.1f} of {num_bytes / unit:,.1f} {name}"


def gigabytes(num_bytes: int) -> str:
    """An amount of memory."""
    amount = num_bytes / 1e9
    return f"{amount:.0f} GB" if amount >= 10 else f"{amount:.1f} GB" if amount >= 1 else f"{num_bytes / 1e6:.0f} MB"


def megabytes_per_second(bytes_per_second: float) -> str:
    """The speed of a download."""
    return f"{bytes_per_second / 1e6:,.1f} MB/s"


def factor(value: float) -> str:
    """A speed-up."""
    return f"{value:.1f}×" if value < 10 else f"{value:.0f}×"


def percent(share: float) -> str:
    """A share of one as whole percents."""
    return f"{share * 100:.0f} %"


def percents(values: Sequence[float]) -> list[str]:
    """The shares of values in their sum, which is not 0, as whole percents that sum to 100."""
    total = sum(values)
    exact = [value / total * 100 for value in values]
    whole = [int(one) for one in exact]
    by_rest = sorted(range(len(exact)), key=lambda k: whole[k] - exact[k])
    for k in by_rest[: 100 - sum(whole)]:
        whole[k] += 1
    return [f"{one} %" for one in whole]
