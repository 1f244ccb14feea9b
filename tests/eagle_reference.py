"""An EAGLE head as the papers have it, to compare drafts with."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from spec_engine.config import RetrievalConfig, TreeConfig
from spec_engine.drafters.eagle3 import EagleDrafter, EagleSession
from spec_engine.drafters.eagle_files import read_head
from spec_engine.drafters.eagle_fit import fit_head
from spec_engine.drafters.lm_memory import LMSettings
from spec_engine.model.target import Step, Target
from spec_engine.sampling import SamplingParams
from spec_engine.tree import DraftTree
from tests.eagle_heads import (
    Weights,
    eagle1_weights,
    eagle3_weights,
)

OPT = TreeConfig(num_nodes=16, threshold=0.01, max_depth=5)
EAGLE = TreeConfig(policy="eagle", num_nodes=16, max_depth=4, top_k=4)
CHAIN = TreeConfig(policy="chain", num_nodes=4, max_depth=4)
OFF = RetrievalConfig(enabled=False)


class Reference:
    """An EAGLE head as the papers' text has it, one attention head after the other, in float64."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        target: PreTrainedModel,
        theta: float = 10000.0,
        columns: Mapping[int, int] | None = None,
    ) -> None:
        self.scale = 1.0
        self.columns = columns or {token: token for token in range(260)}
        names = {name.replace("midlayer.", "layers.0."): weight.double() for name, weight in weights.items()}
        self.weights = names
        self.is_eagle3 = "layers.0.hidden_norm.weight" in names
        self.embedding = target.get_input_embeddings().weight.detach().double()
        self.output = names.get("lm_head.weight", target.get_output_embeddings().weight.detach().double())
        self.inv_freq = theta ** (-torch.arange(0, 16, 2).double() / 16)

    def linear(self, name: str, x: Tensor) -> Tensor:
        bias = self.weights.get(f"{name}.bias")
        return x @ self.weights[f"{name}.weight"].T + (0 if bias is None else bias)

    def norm(self, name: str, x: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * self.weights[f"{name}.weight"]

    def turned(self, x: Tensor, positions: Sequence[int]) -> Tensor:
        """[rows, heads, 16] as complex numbers turned by their angles."""
        angles = torch.tensor(positions).double()[:, None, None] * self.inv_freq
        number = torch.complex(x[..., :8], x[..., 8:]) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat((number.real, number.imag), dim=-1) * self.scale

    def states(self, token_ids: Sequence[int], features: Tensor, positions: Sequence[int]) -> Tensor:
        """[rows, H] of rows that pair `token_ids` with `features` [rows, H], those of the tokens before them."""
        embedded = self.embedding[list(token_ids)]
        x = features.double()
        if self.is_eagle3:
            parts = self.norm("layers.0.input_layernorm", embedded), self.norm("layers.0.hidden_norm", x)
            seen = torch.cat(parts, dim=-1)
        else:
            seen = x = self.linear("fc", torch.cat((embedded, x), dim=-1))
        q, k, v = (self.linear(f"layers.0.self_attn.{name}_proj", seen).view(len(x), -1, 16) for name in "qkv")
        q, k = self.turned(q, positions), self.turned(k, positions)
        unseen = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        heads = []
        for head in range(4):
            scores = (q[:, head] @ k[:, head // 2].T / 4).masked_fill(unseen, -torch.inf)
            heads.append(torch.softmax(scores, -1) @ v[:, head // 2])
        x = x + self.linear("layers.0.self_attn.o_proj", torch.cat(heads, dim=-1))
        normed = self.norm("layers.0.post_attention_layernorm", x)
        gate, up = (self.linear(f"layers.0.mlp.{name}_proj", normed) for name in ("gate", "up"))
        return x + self.linear("layers.0.mlp.down_proj", torch.nn.functional.silu(gate) * up)

    def combined(self, features: Tensor) -> Tensor:
        return self.linear("fc", features.double()) if self.is_eagle3 else features.double()

    def log_probs(self, states: Tensor) -> Tensor:
        last = self.norm("norm", states) if self.is_eagle3 else states
        return (last @ self.output.T).log_softmax(-1)

    def path_log_q(self, text: Sequence[int], path: Sequence[int], features: Tensor) -> float:
        """Summed log-probability of path[1:] below the root path[0], behind `text` with its features [tokens, F]."""
        tokens, rows = [*text[1:], path[0]], self.combined(features)
        total = 0.0
        for token in path[1:]:
            states = self.states(tokens, rows, range(len(tokens)))
            total += float(self.log_probs(states[-1:])[0, self.columns[token]])
            tokens, rows = [*tokens, token], torch.cat((rows, states[-1:]))
        return total


def drafter(
    folder: Path,
    model: PreTrainedModel,
    tree: TreeConfig = OPT,
    retrieval: RetrievalConfig = OFF,
    num_tokens: int = 600,
) -> EagleDrafter:
    """The head in `folder` beside the target."""
    fitted = fit_head(read_head(folder, "head"), Target(model, num_tokens, 64))
    return EagleDrafter(fitted, LMSettings(num_tokens, 260, tree, retrieval))


def begin(own: EagleDrafter, text: Sequence[int], features: Tensor) -> EagleSession:
    session = own.begin(SamplingParams())
    for _ in session.reuse(()):
        pass
    session.observe(Step(tuple(text), len(text), features=features))
    return session


def assert_scores(tree: DraftTree, reference: Reference, text: Sequence[int], features: Tensor) -> None:
    """Every node's log_q is the reference's for its path: siblings and cousins are not seen."""
    for node in range(1, len(tree)):
        path = [tree.token_ids[index] for index in tree.path(node)]
        assert abs(tree.log_q[node] - reference.path_log_q(text, path, features)) < 2e-3


def weights_of(kind: str, target: PreTrainedModel) -> Weights:
    return eagle3_weights() if kind == "eagle3" else eagle1_weights(target)


def layers_of(kind: str, target: PreTrainedModel) -> tuple[int, ...]:
    num_layers: int = target.config.num_hidden_layers
    return (2, num_layers // 2, num_layers - 3) if kind == "eagle3" else (num_layers,)
