"""Tiny models of every family, with random weights, saved as the hub's are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORDS = ["a", "the", "red", "green", "blue", "apple", "car", "circle", "square", "on", "big", "small", "and"]
# (pad, unknown, start, end) tokens; the ids follow this order in the vocabulary
SPECIAL = {
    "bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]"),
    "albert": ("<pad>", "<unk>", "[CLS]", "[SEP]"),
    "roberta": ("<pad>", "<unk>", "<s>", "</s>"),
    "gpt2": (None, "<unk>", None, "<|endoftext|>"),
    "smollm2": (None, "<unk>", "<|im_start|>", "<|im_end|>"),
    "t5": ("<pad>", "<unk>", None, "</s>"),
    "clip": ("<pad>", "<unk>", "<|startoftext|>", "<|endoftext|>"),
}


def save_tokenizer(kind: str, folder: Path) -> dict[str, int]:
    """Save a word-level tokenizer with the family's special tokens; returns its vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pad, unknown, start, end = SPECIAL[kind]
    vocabulary = {word: i for i, word in enumerate([*filter(None, SPECIAL[kind]), *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind not in ("gpt2", "smollm2"):  # which add none
        around = [(token, vocabulary[token]) for token in (start, end) if token]
        single = f"{start or ''} $A {end}".strip()
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=around)
    names = {"pad_token": pad, "unk_token": unknown, "bos_token": start, "eos_token": end}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{k: v for k, v in names.items() if v})
    tokenizer.save_pretrained(folder)
    return vocabulary


def save_tiny_model(kind: str, folder: Path, seed: int = 0, projection_dim: int = 16) -> Path:
    """Save a random model of 16 channels and 32 positions in the form in which its family is published."""
    import torch
    import transformers as t

    vocabulary = save_tokenizer(kind, folder)
    torch.manual_seed(seed)
    pad, _, start, end = SPECIAL[kind]
    ids: dict[str, Any] = {"pad_token_id": vocabulary.get(pad), "bos_token_id": vocabulary.get(start)}
    ids |= {"eos_token_id": vocabulary[end], "vocab_size": len(vocabulary)}
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "bert":
        model = t.BertForMaskedLM(t.BertConfig(**sizes, **ids, max_position_embeddings=32))
    elif kind == "albert":
        model = t.AlbertForMaskedLM(t.AlbertConfig(**sizes, **ids, embedding_size=8, max_position_embeddings=32))
    elif kind == "roberta":
        positions = 32 + vocabulary[pad] + 1
        model = t.RobertaForMaskedLM(t.RobertaConfig(**sizes, **ids, max_position_embeddings=positions))
    elif kind == "gpt2":
        model = t.GPT2LMHeadModel(t.GPT2Config(**ids, n_embd=16, n_layer=2, n_head=2, n_positions=32))
    elif kind == "smollm2":
        model = t.LlamaForCausalLM(t.LlamaConfig(**sizes, **ids, num_key_value_heads=1, max_position_embeddings=32))
    elif kind == "t5":
        model = t.T5ForConditionalGeneration(t.T5Config(**ids, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2))
    else:
        text = sizes | ids | {"max_position_embeddings": 32, "projection_dim": projection_dim}
        vision = sizes | {"image_size": 8, "patch_size": 4}
        model = t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection_dim))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def save_model() -> Callable[..., Path]:
    return save_tiny_model


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model("bert", tmp_path_factory.mktemp("bert"))
