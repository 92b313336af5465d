"""BERT's encoder in plain PyTorch, read from the files of its publishers: it is there in a tenth of the time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

OTHERS = ("pooler.", "cls.", "embeddings.position_ids")  # heads, of what BERT was trained for, and what is counted
KNOWN = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
DEFAULTS = KNOWN | {"model_type": "", "layer_norm_eps": 1e-12, "type_vocab_size": 2}  # of a config.json that is silent


class Hidden(NamedTuple):
    """last_hidden_state: (N, L, D)."""

    last_hidden_state: Tensor


class Embedding(nn.Embedding):
    """Without random values to begin with, which take longer than to read the file."""

    def reset_parameters(self) -> None:
        pass


class Linear(nn.Linear):
    """As `Embedding`."""

    def reset_parameters(self) -> None:
        pass


class Embeddings(nn.Module):
    """Token ids (N, L) to the sum of the embeddings of token, position and the first segment, (N, L, D)."""

    def __init__(self, vocabulary: int, positions: int, segments: int, width: int, eps: float):
        super().__init__()
        self.word_embeddings = Embedding(vocabulary, width)
        self.position_embeddings = Embedding(positions, width)
        self.token_type_embeddings = Embedding(segments, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)

    def forward(self, ids: Tensor) -> Tensor:
        segment = self.token_type_embeddings.weight[0]
        return self.LayerNorm(self.word_embeddings(ids) + segment + self.position_embeddings.weight[: ids.shape[1]])


class Attention(nn.Module):
    """Attention of all tokens to all in `heads` heads, added to what came in, and normalised."""

    def __init__(self, width: int, heads: int, eps: float):
        super().__init__()
        self.heads = heads
        self.self = nn.ModuleDict({name: Linear(width, width) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps=eps)})

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (
            self.self[name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in ("query", "key", "value")
        )
        found = F.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).flatten(2)
        return self.output["LayerNorm"](self.output["dense"](found) + x)


class Layer(nn.Module):
    """Attention and two linear layers with a GELU between them, both with what came in added."""

    def __init__(self, width: int, heads: int, hidden: int, eps: float):
        super().__init__()
        self.attention = Attention(width, heads, eps)
        self.intermediate = nn.ModuleDict({"dense": Linear(width, hidden)})
        self.output = nn.ModuleDict({"dense": Linear(hidden, width), "LayerNorm": nn.LayerNorm(width, eps=eps)})

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.attention(x, mask)
        return self.output["LayerNorm"](self.output["dense"](F.gelu(self.intermediate["dense"](x))) + x)


class Bert(nn.Module):
    """Token ids (N, L) to features of tokens (N, L, D): the encoder of BERT (Devlin et al. 2019), without its heads.

    config: that of its config.json. Its parameters have the names that published files have.
    """

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.config = SimpleNamespace(**config)
        vocabulary, positions = config["vocab_size"], config["max_position_embeddings"]
        self.embeddings = Embeddings(vocabulary, positions, config["type_vocab_size"], width, eps)
        heads, hidden = config["num_attention_heads"], config["intermediate_size"]
        layers = [Layer(width, heads, hidden, eps) for _ in range(config["num_hidden_layers"])]
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(layers)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Hidden:
        """attention_mask: (N, L), 0 for padding; None where there is none."""
        mask = None if attention_mask is None else attention_mask[:, None, None, :] > 0
        x = self.embeddings(input_ids)
        for layer in self.encoder.layer:  # type: ignore[union-attr]
            x = layer(x, mask)
        return Hidden(x)


class FastTokenizer:
    """Captions to lists of ids by a tokenizer.json, called as those of `transformers` are."""

    eos_token = eos_token_id = None
    pad_token = "[PAD]"

    def __init__(self, file: Path):
        self.backend_tokenizer = Tokenizer.from_file(str(file))
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.no_truncation()

    def __call__(self, texts: Sequence[str], truncation: bool = False, max_length: int = 0) -> dict[str, Any]:
        if truncation:
            self.backend_tokenizer.enable_truncation(max_length)
        try:
            return {"input_ids": [each.ids for each in self.backend_tokenizer.encode_batch(list(texts))]}
        finally:
            self.backend_tokenizer.no_truncation()

    def convert_tokens_to_ids(self, token: str) -> int | None:
        return self.backend_tokenizer.token_to_id(token)


def plain(folder: Path) -> dict[str, Any] | None:
    """The config.json of a folder, None unless of a plain BERT."""
    config = DEFAULTS | json.loads((folder / "config.json").read_text())
    return None if any(config[key] != value for key, value in KNOWN.items()) else config


def read_tokenizer(folder: Path) -> FastTokenizer | None:
    """The tokenizer alone of a folder that `read` can read."""
    try:
        return FastTokenizer(folder / "tokenizer.json") if plain(folder) else None
    except Exception:  # as there
        return None


def read(folder: Path) -> tuple[Bert, FastTokenizer] | None:
    """(model, tokenizer) of a folder in this form, as most of BERT's kind are; None of any other, and of damaged ones.

    The form: config.json of a plain BERT, one model.safetensors with all its weights, and a tokenizer.json.
    """
    try:
        config = plain(folder)
        if config is None:
            return None
        found = load_file(folder / "model.safetensors")
        weights = {key.removeprefix("bert."): value for key, value in found.items()}
        model = Bert(config)
        kept = {key: value for key, value in weights.items() if not key.startswith(OTHERS)}
        model.load_state_dict(kept, assign=True)
        return model.float().eval().requires_grad_(False), FastTokenizer(folder / "tokenizer.json")
    except Exception:  # whoever reads it in general says what is wrong
        return None
