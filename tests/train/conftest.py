"""A small corpus of made-up sentences, its tokenizer and its passages."""

import random

import pytest
from transformers import PreTrainedTokenizerFast

from spec_engine.train.corpus import CorpusDocument, TokenizedCorpus, train_tokenizer

SUBJECTS = ["The agency", "A committee", "Mr. Baker", "The U.S. Senate", "Each office", "The report", "No. 5 Company"]
VERBS = ["reviewed", "published", "refused", "paid for", "measured", "described"]
OBJECTS = (
    """the annual budget|seven harbours|a wooden bridge|old maps of Norway|its own rules|the eastern railway""".split(
        "|"
    )
)


def document(seed: int) -> CorpusDocument:
    dice = random.Random(seed)

    def sentence() -> str:
        return f"{dice.choice(SUBJECTS)} {dice.choice(VERBS)} {dice.choice(OBJECTS)} in {dice.randint(1800, 2020)}."

    paragraphs = [" ".join(sentence() for _ in range(dice.randint(1, 6))) for _ in range(12)]
    return CorpusDocument(f"document {seed}", "CC0", "\n\n".join(paragraphs))


@pytest.fixture(scope="session")
def documents() -> list[CorpusDocument]:
    return [document(seed) for seed in range(42)]


@pytest.fixture(scope="session")
def tokenizer(documents: list[CorpusDocument]) -> PreTrainedTokenizerFast:
    return train_tokenizer(documents, vocab_size=1100)


@pytest.fixture(scope="session")
def corpus(documents: list[CorpusDocument], tokenizer: PreTrainedTokenizerFast) -> TokenizedCorpus:
    return TokenizedCorpus(documents, tokenizer.backend_tokenizer)
