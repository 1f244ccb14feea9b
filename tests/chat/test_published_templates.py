"""The chat formats of the presets' models: what was read stays usable, token by token.

The templates are written anew here after the formats that these families publish with their models, with the habits
that break caches kept: dates, trimmed text, thoughts that vanish from old turns, system texts that move.
"""

from typing import Final

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from spec_engine.chat.prompt import Message, Turn, build, reuse_trouble
from spec_engine.documents.anchors import Anchor, Block, Document
from spec_engine.model.tokenizer import Tokenizer
from tests.chat.tokenizers import TEXT

_HEADER: Final = "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
_LLAMA_END: Final = (
    "{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif -%}"
)
_LLAMA_HEAD: Final = (
    "<|begin_of_text|>{%- set given = messages[0].content | trim if messages[0].role == 'system' else '' -%}"
    "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: {{ today }}\n\n"
    "{{ given }}<|eot_id|>{%- for m in messages if m.role != 'system' -%}" + _HEADER + "{%- endfor -%}" + _LLAMA_END
)
_QWEN_OLD: Final = (
    "{%- for m in messages -%}"
    "{%- set said = m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' else m.content -%}"
    "{{ '<|im_start|>' + m.role + '\n' + said + '<|im_end|>\n' }}{%- endfor -%}"
)
FAMILIES: Final = {
    # meta-llama/Llama-3.1-8B-Instruct: a fixed date unless one is given; text is trimmed
    "Llama 3.1": "{%- set today = date_string if date_string is defined else '26 Jul 2024' -%}" + _LLAMA_HEAD,
    # Llama 3.2 and 3.3: today's date
    "Llama 3.2": "{%- set today = strftime_now('%d %b %Y') -%}" + _LLAMA_HEAD,
    # gradientai/Llama-3-8B-Instruct-262k
    "Llama 3": "<|begin_of_text|>{%- for m in messages -%}" + _HEADER + "{%- endfor -%}" + _LLAMA_END,
    # deepseek-ai/DeepSeek-R1-Distill-Llama-8B: thoughts vanish from old turns, and a new one is begun
    "DeepSeek R1": "<｜begin▁of▁sentence｜>{%- for m in messages -%}{%- if m.role == 'system' -%}{{ m.content }}"
    "{%- elif m.role == 'user' -%}<｜User｜>{{ m.content }}{%- else -%}<｜Assistant｜>"
    "{{ m.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<｜Assistant｜><think>\n' }}{%- endif -%}",
    # Qwen/Qwen3-*: an empty thought when thinking is off, none in old turns
    "Qwen3": _QWEN_OLD + "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking -%}{{ '<think>\n\n</think>\n\n' }}{%- endif -%}"
    "{%- endif -%}",
    # Qwen/QwQ-32B-Preview: a text of its own where no system message is given
    "QwQ preview": "{%- if messages[0].role != 'system' -%}{{ '<|im_start|>system\nThink.<|im_end|>\n' }}{%- endif -%}"
    "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}",
    # Mistral 7B v0.3: the system text stands before the last question
    "Mistral": "<s>{%- set sys = messages[0].content ~ '\n\n' if messages[0].role == 'system' else '' -%}"
    "{%- for m in messages if m.role != 'system' -%}{%- if m.role == 'user' -%}"
    "[INST] {{ sys if loop.last else '' }}{{ m.content }}[/INST]{%- else -%}{{ ' ' + m.content | trim + '</s>' }}"
    "{%- endif -%}{%- endfor -%}",
    # Gemma 2 refuses the role
    "Gemma 2": "<bos>{%- if messages[0].role == 'system' -%}{{ raise_exception('no system role') }}{%- endif -%}"
    "{%- for m in messages -%}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "<end_of_turn>\n{% endfor -%}{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}",
    # Gemma 3 puts the system text before the first question
    "Gemma 3": "<bos>{%- set sys = messages[0].content ~ '\n\n' if messages[0].role == 'system' else '' -%}"
    "{%- for m in messages if m.role != 'system' -%}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ sys if loop.first else '' }}{{ m.content | trim }}<end_of_turn>\n{% endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}",
    # lmsys/vicuna-*, lmsys/longchat-*: no template; the project's plain turns
    "Vicuna": None,
}
SPECIALS: Final = (
    *("<s>", "</s>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"),
    *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
)
REPORT = Document(
    "report", "r.txt", (Block(Anchor("line", "lines 1-9", 0), "The fund was closed.\n\n  It had been opened in 1998."),)
)
SAID = "<think>\nThe board, I think.\n</think>\n\n  It was closed in 2014. "  # with a thought, and blanks at both ends


def tokenizer_of(template: str | None) -> Tokenizer:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=500, special_tokens=list(SPECIALS), initial_alphabet=alphabet)
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    fast.chat_template = template
    return Tokenizer(fast)


@pytest.fixture(params=list(FAMILIES))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return tokenizer_of(FAMILIES[request.param])


def conversation(tokenizer: Tokenizer, num_turns: int) -> tuple[list[int], list[Turn]]:
    """The prompt of the turn after `num_turns`, and the turns; each prompt must begin with all that came before."""
    turns: list[Turn] = []
    known: list[int] = []
    for number in range(num_turns):
        prompt = build(tokenizer, REPORT, turns, f"Question {number}?", "Read this.")
        assert prompt[: len(known)] == known
        answer = tokenizer.encode(SAID)
        known = [*prompt, *answer]
        turns.append(Turn(f"Question {number}?", SAID.strip(), tuple(answer)))
    prompt = build(tokenizer, REPORT, turns, "And then?", "Read this.")
    assert prompt[: len(known)] == known
    return prompt, turns


def test_a_follow_up_reads_nothing_but_itself(tokenizer: Tokenizer) -> None:
    prompt, turns = conversation(tokenizer, 3)
    before = build(tokenizer, REPORT, turns[:-1], turns[-1].question, "Read this.")
    num_known = len(before) + len(turns[-1].answer_token_ids or ())
    assert len(prompt) - num_known < 45  # the end of the answer's turn, the question, the beginning of the next answer
    assert reuse_trouble(tokenizer) == ""


def test_a_new_chat_reads_the_document_once(tokenizer: Tokenizer) -> None:
    one, other = (build(tokenizer, REPORT, [], question) for question in ("When?", "By whom was it opened?"))
    num_shared = next(index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    assert REPORT.text in tokenizer.decode(one[:num_shared])


def test_the_first_prompt_is_what_the_template_itself_writes(tokenizer: Tokenizer) -> None:
    """With the document where this format has its place."""
    prompt = build(tokenizer, REPORT, [], "When?")
    given = [Message("system", REPORT.text), Message("user", "When?")]
    joined = [Message("user", f"{REPORT.text}\n\nWhen?")]
    renderings = [tokenizer.render_chat(messages) for messages in (given, joined)]
    assert prompt in [tokenizer.encode(rendering) for rendering in renderings if rendering is not None]


def test_the_date_does_not_move() -> None:
    for family in ("Llama 3.1", "Llama 3.2"):
        prompt = build(tokenizer_of(FAMILIES[family]), REPORT, [], "When?")
        assert "Today Date: 26 Jul 2024" in tokenizer_of(None).decode(prompt)


@pytest.mark.parametrize("family", ["Llama 3.1", "Qwen3", "DeepSeek R1", "Mistral", "Gemma 3"])
def test_rendering_the_conversation_again_would_lose_what_was_read(family: str) -> None:
    """What most chat programs do, and why it is not done here."""
    tokenizer = tokenizer_of(FAMILIES[family])
    first = tokenizer.encode(
        tokenizer.render_chat([Message("system", REPORT.text), Message("user", "When?")]) or ""
    ) + tokenizer.encode(SAID)
    again = tokenizer.encode(
        tokenizer.render_chat(
            [
                Message("system", REPORT.text),
                Message("user", "When?"),
                Message("assistant", SAID),
                Message("user", "Why?"),
            ]
        )
        or ""
    )
    assert again[: len(first)] != first


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "{{ messages[-1].content | length }} letters: {% for m in messages %}{{ m.content }}{% endfor %}",
            "before the document",
        ),
        (
            "{{ strftime_now(format) if format is defined }}{% for m in messages %}{{ m.content }}{% endfor %}",
            "the time",
        ),
    ],
)
def test_where_reuse_is_impossible_it_is_said(template: str, words: str) -> None:
    assert words in reuse_trouble(tokenizer_of(template))
