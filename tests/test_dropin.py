"""`generate(custom_generate=...)` gives what plain `generate` gives, with all that the caller hands to it."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
    TextStreamer,
)
from transformers.generation.streamers import BaseStreamer

from spec_engine import generate_with
from spec_engine.config import NEED_MODEL, DraftConfig, DrafterKind, LookupConfig, TreeConfig
from spec_engine.controller import BudgetController
from spec_engine.drafters import DRAFTERS
from spec_engine.dropin import CustomGenerate, _sampling, _special_ids
from spec_engine.errors import PresetError, RequestError
from tests.fakes import END_ID, HEADS, byte_tokenizer, perturbed, save_pair, tiny_lm
from tests.heads import save_taught_head
from tests.test_lossless import prompt_of

TREE = TreeConfig(num_nodes=14, threshold=0.1, max_depth=5)


class Ban(LogitsProcessor):
    """Forbids repeating the token three back: depends on the tokens of each node's own path."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.scatter(1, input_ids[:, -3:-2], float("-inf"))


class StopAtSum(StoppingCriteria):
    """Stops when the last two ids add up to a multiple of eleven."""

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        return input_ids[:, -2:].sum(-1) % 11 == 0


class Heard(BaseStreamer):
    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.has_ended = False

    def put(self, value: Tensor) -> None:
        self.token_ids += value.flatten().tolist()

    def end(self) -> None:
        self.has_ended = True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    target = tiny_lm()
    save_pair(folder, target, perturbed(target, 0.05))
    texts = [tuple(generate(target, prompt_of(length), None)[0].tolist()) for length in (1, 60)]
    for kind, name in HEADS.items():
        save_taught_head(folder / name, kind, target, texts, num_steps=60)
    return folder


@pytest.fixture(scope="module")
def load(folder: Path) -> Callable[[], PreTrainedModel]:
    return lambda: AutoModelForCausalLM.from_pretrained(folder / "target")


def generate(model: PreTrainedModel, prompt: tuple[int, ...], custom: CustomGenerate | None, **more: object) -> Tensor:
    ids = torch.tensor([prompt])
    options: dict[str, object] = {"max_new_tokens": 40, "eos_token_id": None, "do_sample": False} | more
    if custom is not None:
        options["custom_generate"] = custom
    output: Tensor = model.generate(ids, attention_mask=torch.ones_like(ids), **options)  # type: ignore[operator]
    return output


def custom_for(kind: DrafterKind, folder: Path, streamer: BaseStreamer | None = None) -> CustomGenerate:
    draft = str(folder / HEADS.get(kind, "draft")) if kind in NEED_MODEL else None
    return generate_with(kind, draft, config=DraftConfig(tree=TREE), streamer=streamer, adaptive=False)


@pytest.mark.parametrize("kind", list(DRAFTERS))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 3, "min_new_tokens": 5},
        {"logits_processor": LogitsProcessorList([Ban()])},
        {"prefix_allowed_tokens_fn": lambda row, ids: range(30, 200) if row == 0 else [5]},
        {"stopping_criteria": StoppingCriteriaList([StopAtSum()])},
        {"eos_token_id": [97, 101, END_ID]},
        {"stopping_criteria": StoppingCriteriaList([StopStringCriteria(byte_tokenizer(), ["a", "9"])])},
        {"max_new_tokens": 1},
    ],
    ids=range(9),
)
def test_greedy_text_is_that_of_generate(
    load: Callable[[], PreTrainedModel], folder: Path, kind: DrafterKind, options: dict[str, object]
) -> None:
    model, untouched = load(), load()
    custom = custom_for(kind, folder)
    for length in (1, 60, 200):
        prompt = prompt_of(length)
        expected = generate(untouched, prompt, None, **options)
        assert torch.equal(generate(model, prompt, custom, **options), expected)
        assert torch.equal(generate(model, prompt, None, **options), expected), "plain generate changed"


def test_turns_reuse_and_a_longer_context_is_made_room_for(load: Callable[[], PreTrainedModel], folder: Path) -> None:
    model, untouched = load(), load()
    custom = custom_for("lookup", folder)
    prompt = prompt_of(300)
    for _ in range(3):
        text = generate(model, prompt, custom)
        assert torch.equal(text, generate(untouched, prompt, None))
        prompt = (*text[0].tolist(), *prompt_of(300, seed=len(prompt)))
    assert len(prompt) > 1024
    other = load()
    assert torch.equal(generate(other, prompt[:50], custom), generate(untouched, prompt[:50], None))


def test_tokens_are_streamed_as_they_come(load: Callable[[], PreTrainedModel], folder: Path) -> None:
    heard = Heard()
    text = generate(load(), prompt_of(60), custom_for("lm", folder, heard))
    assert heard.token_ids == text[0].tolist()  # the prompt first, as `generate` has it
    assert heard.has_ended


def test_a_text_streamer_prints_what_it_prints_under_generate(
    load: Callable[[], PreTrainedModel], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load()
    generate(model, prompt_of(40), None, streamer=TextStreamer(byte_tokenizer(), skip_prompt=True))
    expected = capsys.readouterr().out
    generate(model, prompt_of(40), custom_for("lookup", folder, TextStreamer(byte_tokenizer(), skip_prompt=True)))
    assert capsys.readouterr().out == expected


def test_weights_that_changed_are_noticed(load: Callable[[], PreTrainedModel], folder: Path) -> None:
    model, custom, prompt = load(), custom_for("lookup", folder), prompt_of(80)
    generate(model, prompt, custom)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    assert torch.equal(generate(model, prompt, custom), generate(model, prompt, None))
    model.to(torch.float64)
    generate(model, prompt, custom)


def test_the_callers_model_keeps_no_hook(load: Callable[[], PreTrainedModel], folder: Path) -> None:
    model = load()
    for _ in range(2):
        generate(model, prompt_of(40), custom_for("eagle3", folder))
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_a_context_that_just_fits_is_served(folder: Path) -> None:
    """Learned positions end at 64; room for more would be refused."""
    model = tiny_lm("gpt2", n_positions=64)
    ids = torch.tensor([prompt_of(30)])
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 20, "eos_token_id": None, "do_sample": False}
    expected = model.generate(ids, **options)
    assert torch.equal(model.generate(ids, custom_generate=custom_for("lookup", folder), **options), expected)


def test_sampled_text_depends_on_torchs_seed_alone(load: Callable[[], PreTrainedModel], folder: Path) -> None:
    model = load()
    texts = []
    for kind in (*DRAFTERS, "none"):
        torch.manual_seed(7 if len(texts) < len(DRAFTERS) else 8)
        custom = custom_for(kind, folder)
        texts.append(generate(model, prompt_of(90), custom, do_sample=True, temperature=0.5, top_k=20).tolist())
    assert all(text == texts[0] for text in texts[:-1])
    assert texts[-1] != texts[0]


def test_drafts_of_sampled_text_know_the_noise(
    load: Callable[[], PreTrainedModel], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models that nearly agree, at a temperature at which nobody could foresee a draw without its noise."""
    model, custom = load(), custom_for("lm", folder)
    steps = []
    record = BudgetController.record
    monkeypatch.setattr(BudgetController, "record", lambda *given: (steps.append(given[1]), record(*given)))
    torch.manual_seed(3)
    options = {"do_sample": True, "temperature": 1.5, "top_k": 0, "max_new_tokens": 60, "eos_token_id": None}
    generate(model, prompt_of(60), custom, **options)
    assert sum(step.num_new_tokens for step in steps) == 60
    assert len(steps) < 40  # 49 to 55 without


def test_a_temperature_near_zero_and_settings_that_switch_warpers_off_are_served(
    load: Callable[[], PreTrainedModel], folder: Path
) -> None:
    model, prompt = load(), prompt_of(40)
    greedy = generate(model, prompt, None, max_new_tokens=8)
    for more in ({"temperature": 1e-4}, {"top_k": 1, "top_p": 1.5, "min_p": None}, {"top_k": None, "top_p": 0.0}):
        drawn = generate(model, prompt, custom_for("lm", folder), do_sample=True, max_new_tokens=8, **more)
        assert torch.equal(drawn, greedy)


def test_special_tokens_are_those_that_the_settings_name() -> None:
    config = GenerationConfig(bos_token_id=1, eos_token_id=[2, 3], pad_token_id=None)
    assert _special_ids(config) == {1, 2, 3}
    config.eos_token_id = torch.tensor([[4]])
    assert _special_ids(config) == {1, 4}
    assert _special_ids(GenerationConfig(bos_token_id=None)) == frozenset()


def test_what_the_engine_would_refuse_is_only_a_hint_here() -> None:
    hot = _sampling(GenerationConfig(do_sample=True, temperature=math.inf, top_p=2.0, top_k=-1, min_p=1.2))
    assert (hot.temperature, hot.top_p, hot.top_k, hot.min_p) == (1e3, 1.0, 0, 1.0)


def test_sampled_tokens_have_the_models_distribution(load: Callable[[], PreTrainedModel], folder: Path) -> None:
    """The second token after a prompt, over many draws, against transformers' own probabilities."""
    model = load()
    prompt = prompt_of(30)
    custom = custom_for("lookup", folder)
    torch.manual_seed(1)
    first = generate(model, prompt, None, max_new_tokens=1)
    with torch.inference_mode():
        logits = model(first).logits[0, -1]
    kept = logits.topk(4)
    expected = kept.values.softmax(-1)
    counts = dict.fromkeys(kept.indices.tolist(), 0)
    num_draws = 600
    for _ in range(num_draws):
        text = generate(model, tuple(first[0].tolist()), custom, do_sample=True, top_k=4, max_new_tokens=1)
        counts[int(text[0, -1])] += 1
    seen = torch.tensor([counts[token] for token in kept.indices.tolist()]) / num_draws
    assert float((seen - expected).abs().sum()) / 2 < 0.06


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"guidance_scale": 1.5}, "guidance_scale"),
        ({"num_beams": 2}, "several"),  # which arrive as rows
        ({"num_return_sequences": 2, "do_sample": True}, "several"),
        ({"return_dict_in_generate": True, "output_scores": True}, "output_scores"),
    ],
)
def test_what_cannot_be_done_is_refused(
    load: Callable[[], PreTrainedModel], folder: Path, options: dict[str, object], words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        generate(load(), prompt_of(20), custom_for("lookup", folder), **options)


def test_arguments_are_checked_at_once() -> None:
    with pytest.raises(RequestError, match="lookupp"):
        generate_with("lookupp")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="needs a draft model"):
        generate_with("lm")
    with pytest.raises(PresetError, match="num_draft"):
        generate_with("lookup", config=DraftConfig(lookup=LookupConfig(num_draft=5000)))


def test_batches_and_padding_are_refused(load: Callable[[], PreTrainedModel], folder: Path) -> None:
    model, custom = load(), custom_for("lookup", folder)
    ids = torch.tensor([prompt_of(20), prompt_of(20, seed=2)])
    with pytest.raises(RequestError, match="one sequence"):
        model.generate(ids, attention_mask=torch.ones_like(ids), custom_generate=custom, max_new_tokens=4)
    mask = torch.ones_like(ids[:1])
    mask[0, :3] = 0
    with pytest.raises(RequestError, match="padded"):
        model.generate(ids[:1], attention_mask=mask, custom_generate=custom, max_new_tokens=4)


def test_the_dictionary_form_of_the_output(load: Callable[[], PreTrainedModel], folder: Path) -> None:
    model = load()
    found = generate(model, prompt_of(20), custom_for("lookup", folder), return_dict_in_generate=True)
    assert torch.equal(found.sequences, generate(model, prompt_of(20), None))  # type: ignore[attr-defined]
