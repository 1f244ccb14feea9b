"""How people ask for a quotation, a continuation or an outline, and which words carry no meaning of their own.

Job: the sentences that questions of the training are put into; ``{k}`` stands for the words of the document.
Non-job: choosing among them (objectives.py).
"""

STOP_WORDS = frozenset(
    """the a an of to in and for on at by with from that this which is are was were be been as it its or not have has
    had but his her their he she they we you i s if so no do did does can will would should may might must than then
    there these those what when who whom whose how why where my your our me him them also such any all one more into
    other each some only very about after before under over between through during out up""".split()
)

ASK_PHRASE = (
    "What does the document say about {k}?",
    'What does the document say about "{k}"?',
    "Where does the text mention {k}?",
    "Find the passage about {k}.",
    'Find the passage about "{k}".',
    'Quote the sentence with "{k}".',
    "Quote the sentence on {k}.",
    "What is said about {k}?",
    "Tell me about {k}.",
    "What about {k}?",
    "{k}?",
    "{k}",
    '"{k}"',
    "Who or what is {k}?",
    "Explain {k}.",
    "Is there anything on {k}?",
    'Which sentence mentions "{k}"?',
    "Quote the passage about {k}.",
    "What does the report say about {k}?",
    'Quote the passage about "{k}".',
    'Where is "{k}" mentioned?',
    "What does it say on {k}?",
)

ASK_WORDS = (
    "Which sentence mentions {k}?",
    "Find the passage about {k}.",
    "What does the document say about {k}?",
    "{k}?",
    "{k}",
    "Quote the sentence with the words {k}.",
    "Quote the sentence that mentions {k}.",
    "Where does the text mention {k}?",
    "Which passage contains {k}?",
    "What is said about {k}?",
)

ASK_CONTINUE = (
    'Continue the text after "{k}"',
    'Continue the text after "{k}".',
    'Go on from "{k}".',
    'What follows "{k}"?',
    'Read on from "{k}".',
    "Continue: {k}",
    'Continue after "{k}".',
    'What comes after "{k}"?',
    'Continue from "{k}".',
    'Continue: "{k}"',
    'Continue the passage "{k}"',
    "What comes after {k}?",
)

ASK_OUTLINE = (
    "Summarize the document.",
    "Give me a summary.",
    "What is this document about?",
    "Summarise the text.",
    "What are the main points?",
    "Give an overview.",
    "Give me an outline.",
    "Outline the document.",
)
