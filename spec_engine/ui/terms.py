"""The terms of the page explained, for who points at them.

Job: what stands behind each figure and each column. Non-job: all other sentences (`text`), markup (`readouts`).
"""

from typing import Final

HELP: Final[dict[str, str]] = {
    "rate": "Tokens written per second while decoding; reading the prompt is counted apart.",
    "now": "Tokens per second over the last two seconds.",
    "mean": "Tokens per second from the first token to the last.",
    "speedup": "Decoding speed with drafting divided by plain decoding speed, both measured on this machine with this "
    "engine. Plain means one token per pass of the large model.",
    "acceptance_length": "Tokens gained per pass of the large model: the drafted tokens it confirmed plus the one it "
    "adds itself. Plain decoding has 1.",
    "by_position": "How often the 1st, 2nd, 3rd … drafted token of a step was confirmed, among the steps that drafted "
    "that far.",
    "histogram": "How many steps had 0, 1, 2 … drafted tokens confirmed.",
    "time": "Where the seconds of this answer went.",
    "prefill": "Reading the prompt: the document and the conversation, before the first word can be written.",
    "reused": "Tokens whose computation was kept, from reading ahead, from earlier questions or on disk since the "
    "document was open before, and tokens that had to be read now.",
    "draft": "The small, fast drafter proposing tokens.",
    "verify": "The large model checking all proposed tokens in one pass.",
    "other": "Retrieval and bookkeeping.",
    "looks": "Where the large model's attention went while it wrote, beyond the beginning and the newest words, which "
    "always draw some. Press a place to see it. Where it looked is a hint at what it used, not a proof.",
    "view": "The stretches of the context that the drafter has in view. The large model scores the whole context and "
    "hands the drafter the parts that matter now; the large model itself always sees everything.",
    "drafting": "A fast drafter proposes tokens, the large model confirms or replaces them. The text is exactly what "
    "the large model alone would write.",
    "context": "Tokens are pieces of words. The context is how many the model can hold: document, chat and answer.",
    "memory": "Measured when the models were loaded: their weights, the keys and values of document, chat and answer, "
    "for which room is kept from the start, and what the drafter keeps. The tensors of a pass come on top for moments.",
    "identical": "All runs were compared token by token.",
}

ANSWERS_HEADING: Final = "Answers of this conversation"
ANSWER_COLUMNS: Final = (
    ("#", "The answer's number"),
    ("tokens", "How long it is"),
    ("tokens/s", HELP["mean"]),
    ("gain", f"{HELP['speedup']} Of an answer that was raced, in the race."),
    ("per pass", HELP["acceptance_length"]),
)
