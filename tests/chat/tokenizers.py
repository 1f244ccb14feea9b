"""Small real tokenizers with the chat templates of common model families, made on the spot."""

from collections.abc import Sequence
from functools import cache
from typing import Final

import jinja2
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from spec_engine.chat.prompt import Message

SPECIALS: Final = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "<|user|>", "<|assistant|>")
TEXT: Final = (
    "The report says that the fund was closed in 2014. What does the document say about the fund? "
    "Quote the passage. Continue the text after it. USER: ASSISTANT: system user assistant model turn end. " * 4
)

CHATML: Final = """{%- for m in messages -%}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor -%}{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""

# Thinking models: an empty thought stands before a new answer, but is left out of old turns.
THINKING: Final = CHATML.replace(
    "<|im_start|>assistant\n{% endif", "<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif"
)

# The role is refused.
NO_SYSTEM: Final = """<s>{%- for m in messages -%}{%- if m.role == 'system' -%}{{ raise_exception('no system role') }}
{%- elif m.role == 'user' -%}<|user|>{{ m.content | trim }}</s>
{%- else -%}<|assistant|>{{ m.content | trim }}</s>{%- endif -%}{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"""

# The system text moves to the last question.
SYSTEM_LAST: Final = """{%- set ns = namespace(system='') -%}<s>
{%- for m in messages -%}{%- if m.role == 'system' -%}{%- set ns.system = m.content ~ '\\n\\n' -%}
{%- elif m.role == 'user' -%}[INST] {{ ns.system if loop.last else '' }}{{ m.content }}[/INST]
{%- else -%} {{ m.content }}</s>{%- endif -%}{%- endfor -%}"""

TEMPLATES: Final = {
    "chatml": CHATML,
    "thinking": THINKING,
    "no system": NO_SYSTEM,
    "system last": SYSTEM_LAST,
    "none": None,
}


class SmallTokenizer:
    """Byte-level BPE over a few sentences, with a family's template."""

    def __init__(self, family: str) -> None:
        self.fast = _train()
        self.template = TEMPLATES[family]

    @property
    def special_spellings(self) -> tuple[str, ...]:
        return SPECIALS

    writes_time = False

    @property
    def stop_token_ids(self) -> frozenset[int]:
        return frozenset(self.fast.convert_tokens_to_ids(["</s>", "<|im_end|>"]))

    def encode(self, text: str) -> list[int]:
        return list(self.fast.encode(text, add_special_tokens=False))

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self.fast.decode(list(token_ids), skip_special_tokens=False))

    def render_chat(self, messages: Sequence[Message]) -> str | None:
        if self.template is None:
            return None
        rows = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return str(
                self.fast.apply_chat_template(
                    rows, chat_template=self.template, tokenize=False, add_generation_prompt=True
                )
            )
        except jinja2.TemplateError:
            return None


@cache
def _train() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=list(SPECIALS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
