"""The kinds of pretrained text models: how each is loaded and checked, and which vector stands for a whole caption."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from trainer.errors import UserError
from trainer.text import bert

# Pooling, (N, L, D) to (N, D). A batch holds captions of one length and no padding, so nothing needs a mask.


def mean(output: Any) -> Tensor:
    """Mean over all tokens, special ones included."""
    return output.last_hidden_state.mean(1)


def unit_mean(output: Any) -> Tensor:
    """The mean at length 1."""
    return F.normalize(mean(output), dim=1)


def last(output: Any) -> Tensor:
    """The last token."""
    return output.last_hidden_state[:, -1]


def projected(output: Any) -> Tensor:
    """CLIP's text embedding as it is before the cosine: end-of-text token, projected, not normalised."""
    return output.text_embeds


@dataclass(frozen=True)
class Family:
    """hub_id: default model. model_class: its class in `transformers`. model_types: what its config.json may say."""

    hub_id: str
    model_class: str
    model_types: tuple[str, ...]
    pool: Callable[[Any], Tensor]


BIDIRECTIONAL = ("bert", "roberta", "albert", "distilbert", "mpnet", "xlm-roberta", "electra")
CLIP_TYPES = ("clip", "clip_text_model")

FAMILIES = {
    # from a Python package; pooled by sentence-transformers' recipe for it (Reimers & Gurevych 2019)
    "minilm": Family("", "AutoModel", BIDIRECTIONAL, unit_mean),
    # the vector that was trained to match images (Radford et al. 2021)
    "clip": Family("openai/clip-vit-base-patch32", "CLIPTextModelWithProjection", CLIP_TYPES, projected),
    # without fine-tuning the mean says more than [CLS] (Reimers & Gurevych 2019, table 1)
    "bert": Family("google-bert/bert-base-uncased", "AutoModel", BIDIRECTIONAL, mean),
    "roberta": Family("FacebookAI/roberta-base", "AutoModel", BIDIRECTIONAL, mean),
    "albert": Family("albert/albert-base-v2", "AutoModel", BIDIRECTIONAL, mean),
    # causal: only the last token has read the whole caption
    "gpt2": Family("openai-community/gpt2", "AutoModel", ("gpt2",), last),
    "smollm2": Family("", "AutoModel", ("llama",), last),  # from a Python package (Ben Allal et al. 2025)
    # the encoder half, as Imagen (Saharia et al. 2022); the mean, as it has no sentence token (Ni et al. 2022)
    "t5": Family("google-t5/t5-base", "AutoModelForTextEncoding", ("t5", "mt5", "umt5"), mean),
}


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No loading bar, and no warnings but ours: missing weights and cut captions are checked here."""
    if "transformers" not in sys.modules:  # it takes seconds, and a plain BERT does without
        yield
        return
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def load_tokenizer(name: str, folder: Path) -> Any:
    """The tokenizer of `load` without its model."""
    if "bert" in FAMILIES[name].model_types and (found := bert.read_tokenizer(folder)):
        return found
    return load(name, folder)[1]


def load(name: str, folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of a family from a folder; float32, frozen, in evaluation mode, on the CPU.

    UserError if the folder holds no such model or its weights are incomplete.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # unset, every forked loader worker prints a warning
    if "bert" in FAMILIES[name].model_types and (found := bert.read(folder)):
        return found
    import transformers

    family = FAMILIES[name]
    try:
        with quiet_transformers():
            model_type = transformers.AutoConfig.from_pretrained(folder).model_type
            if model_type not in family.model_types:
                expected = " or ".join(family.model_types)
                raise UserError(f"{folder} holds a {model_type} model, text.encoder.name={name} expects {expected}")
            model_class = getattr(transformers, family.model_class)
            model, report = model_class.from_pretrained(folder, output_loading_info=True, ignore_mismatched_sizes=True)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except UserError:
        raise
    except Exception as error:  # safetensors and tokenizers raise exceptions of their own for broken files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder} cannot be loaded as text encoder {name}: {reason}") from error
    # "pooler" is a head that our pooling replaces; anything else would silently stay random
    unset = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    if unset := {key for key in unset if "pooler" not in key}:
        raise UserError(
            f"{folder} lacks {len(unset)} fitting weights of {name}, as {min(unset)}: give a complete model"
        )
    return model.float().eval().requires_grad_(False), tokenizer


def max_positions(config: Any) -> int | None:
    """How many tokens a model reads at most, None if its positions are relative."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions and "roberta" in config.model_type:
        positions -= config.pad_token_id + 1  # RoBERTa numbers its positions from there
    return positions
