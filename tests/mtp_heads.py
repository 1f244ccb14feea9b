"""Multi-token prediction heads beside tiny targets, in the files' published form: random ones, ones taught some texts,
and transformers' own module for them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import Gemma4AssistantConfig, Gemma4AssistantForCausalLM, Gemma4TextConfig, PreTrainedModel

from spec_engine.drafters.mtp_head import SLIDING, MtpConfig, MtpHead
from spec_engine.drafters.mtp_work import MtpSight
from spec_engine.model.target import Taps, Target


def mtp_head(model: PreTrainedModel, seed: int = 5, **changes: int) -> MtpHead:
    """A random head that fits `model`: a layer with a window where the target has some, and one without; peaky enough
    for a wrong row to show."""
    runner = Target(model, 64, 64).runner
    last = {window is not None: shape for shape, window in zip(runner.shapes, runner.layer_windows, strict=True)}
    kinds = tuple(SLIDING if has_window else "full_attention" for has_window in sorted(last, reverse=True))
    sizes = {
        "hidden_size": 32,
        "state_size": model.get_input_embeddings().weight.shape[1],
        "intermediate_size": 64,
        "num_heads": 2 * max(shape.num_kv_heads for shape in last.values()),
        "window": next((window for window in runner.layer_windows if window), 1),
        "vocab_size": runner.vocab_size,
    }
    head_sizes = tuple(last[has_window].key_size for has_window in sorted(last, reverse=True))
    head = MtpHead(MtpConfig(**{**sizes, **changes}, layer_types=kinds, head_sizes=head_sizes))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in head.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            spread = (2.0 if "q_proj" in name else 1.0) / weight.shape[-1] ** 0.5
            weight.copy_(0.1 * noise + 1.0 if "norm" in name else spread * noise)
        for name, buffer in head.named_buffers():
            is_order = name == "token_ordering"
            buffer.copy_(torch.randperm(len(buffer), generator=generator) if is_order else torch.full_like(buffer, 0.8))
    return head.to(model.dtype)


def mtp_fields(config: MtpConfig) -> dict[str, object]:
    """The config.json of a head."""
    fields = asdict(config)
    text = {name: fields[name] for name in ("hidden_size", "intermediate_size", "vocab_size", "layer_types")}
    text |= {"num_attention_heads": config.num_heads, "sliding_window": config.window, "rms_norm_eps": config.eps}
    text |= {"hidden_activation": "gelu_pytorch_tanh", "hidden_size_per_layer_input": 0, "model_type": "gemma4_text"}
    text |= {"num_hidden_layers": len(config.layer_types), "num_kv_shared_layers": len(config.layer_types)}
    text["vocab_size_per_layer_input"] = 0
    for kind, size in zip(config.layer_types, config.head_sizes, strict=True):
        text["head_dim" if kind == SLIDING else "global_head_dim"] = size
    return {
        "model_type": "gemma4_assistant",
        "backbone_hidden_size": config.state_size,
        "use_ordered_embeddings": config.num_clusters > 0,
        "num_centroids": config.num_clusters or 2048,
        "centroid_intermediate_top_k": config.num_open or 32,
        "text_config": {"head_dim": config.head_sizes[0], **text},
    }


def mtp_tensors(head: MtpHead) -> dict[str, Tensor]:
    """The tensors of a head by their published names."""
    named = {}
    for name, tensor in head.state_dict().items():
        root = "masked_embedding." if name.split(".")[0] in ("centroids", "token_ordering") else "model."
        named[name if "projection" in name else root + name] = tensor.detach().clone()
    return named


def write_mtp(folder: Path, tensors: Mapping[str, Tensor], fields: Mapping[str, object]) -> Path:
    """A head's files."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def save_mtp(head: MtpHead, folder: Path) -> Path:
    """A head's files, as they are published."""
    return write_mtp(folder, mtp_tensors(head), mtp_fields(head.config))


def teach_mtp(head: MtpHead, model: PreTrainedModel, texts: Sequence[Sequence[int]], num_steps: int = 60) -> None:
    """Train `head` on three drafted tokens behind every token of these texts, as `model` goes on there."""
    target = Target(model, 512, 512)
    sight = MtpSight(head, target)
    optimizer = torch.optim.AdamW(head.parameters(), lr=4e-3)
    for step in range(num_steps):
        ids = torch.tensor(list(texts[step % len(texts)]))
        target.reset()
        (read,) = target.prefill(ids.tolist(), Taps(features=(sight.state_layer,)))
        assert read.features is not None
        states, length = read.features[:-1].clone(), len(ids)
        angles = [source.rotary and source.rotary.at(torch.arange(1, length)) for source in sight.sources]

        def see(number: int, query: Tensor) -> Tensor:
            """Row t, a root at t + 1, sees the tokens up to t."""
            keys, values = (rows[:, :, : length - 1].clone() for rows in target.memory(sight.sources[number].layer))  # noqa: B023
            back = torch.arange(length - 1)[:, None] - torch.arange(length - 1)[None]  # noqa: B023
            seen = (back >= 0) & (back < (sight.sources[number].window or length))  # noqa: B023
            return scaled_dot_product_attention(query, keys, values, seen, scale=1.0, enable_gqa=True)

        loss = torch.zeros(())
        for depth in range(3):
            embeds = model.get_input_embeddings()(ids.roll(-1 - depth)[:-1])
            hidden = head(embeds, states, angles, see)
            states = head.state(hidden)
            num_known = length - 2 - depth
            every = head.embed_tokens(hidden)[:num_known]
            loss = loss + cross_entropy(every, ids[2 + depth :])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    head.requires_grad_(False)


@contextmanager
def constructible() -> Iterator[None]:
    """Inside, transformers can make a head all of whose layers share: 5.23 looks for a layer that does not."""
    known = Gemma4TextConfig.kv_sharing_modes.fget

    def modes(config: Gemma4TextConfig) -> list[str | None]:
        every = config.num_hidden_layers
        return ["reuse"] * every if config.num_kv_shared_layers == every else known(config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Gemma4TextConfig, "kv_sharing_modes", property(modes))
        yield


def transformers_head(target: PreTrainedModel, **changes: object) -> Gemma4AssistantForCausalLM:
    """transformers' module for a head of three layers with a window and one without, with random weights."""
    of_target = target.config
    text = Gemma4TextConfig(
        vocab_size=of_target.vocab_size,
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=of_target.per_layer_config["sliding_attention"].head_dim,
        global_head_dim=of_target.per_layer_config["full_attention"].head_dim,
        sliding_window=of_target.sliding_window,
        hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=0,
        num_kv_shared_layers=4,
        layer_types=["sliding_attention"] * 3 + ["full_attention"],
        pad_token_id=0,
    )
    with constructible(), torch.random.fork_rng():
        torch.manual_seed(3)
        head = Gemma4AssistantForCausalLM(
            Gemma4AssistantConfig(text_config=text, backbone_hidden_size=of_target.hidden_size, **changes)
        ).eval()
    with torch.no_grad():
        for name, weight in head.named_parameters():
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name)))
            weight.copy_(0.1 * noise + 1.0 if "norm" in name else noise / weight.shape[-1] ** 0.5)
        for layer in head.model.layers:
            layer.layer_scalar.fill_(0.7)
        if head.masked_embedding is not None:
            order = torch.randperm(of_target.vocab_size, generator=torch.Generator().manual_seed(1))
            head.masked_embedding.token_ordering.copy_(order)
    return head
