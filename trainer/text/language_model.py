"""Causal language models: where they are, that they are such, and how they go on with a text."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.pretrained import hub
from trainer.process import caches
from trainer.text import weights

FILES = (".safetensors", ".json", ".txt", ".model", ".jinja")
SMOLLM2 = "smollm2"  # of a package; any other name is a folder or a hub id
REMEDY = f"check id and network, give a folder, or take {SMOLLM2}, which needs no network"


class LanguageModel:
    """A causal language model by name: smollm2, a folder, or a hub id. Its weights are read when it is to speak.

    UserError, then or where its folder is asked for: none of that name, weights that are no safetensors or not all
    there, code of its own, or a model that is not causal.
    """

    def __init__(self, name: str):
        self.name = name
        self._context: str | None = None
        self._kept: Any = None  # keys and values of that
        self._counted: tuple[str, ...] | None = None
        self._usable: set[int] = set()

    @cached_property
    def folder(self) -> Path:
        """Of its files, which come from the hub if they are not on this machine."""
        if self.name == SMOLLM2:
            from trainer.text.smollm2 import smollm2_folder

            return smollm2_folder(caches.root() / "text")
        needed = "config.json, *.safetensors and tokenizer files"
        return hub.find(self.name, "", needed, "HuggingFaceTB/SmolLM2-360M-Instruct", REMEDY, is_complete, wanted)

    @cached_property
    def identity(self) -> str:
        """Its name and a checksum of all that its words hang on: no path, as pictures that say it travel."""
        name = Path(self.name).expanduser().resolve().name if Path(self.name).expanduser().is_dir() else self.name
        return f"{name} {weights.fingerprint(self.folder, caches.root() / 'text' / 'checksums', FILES)[:12]}"

    @cached_property
    def parts(self) -> tuple[Any, Any]:
        """(model, tokenizer): float32, in evaluation mode, on the GPU if there is one."""
        return load(self.name, self.folder)

    def chat(self, turns: Sequence[tuple[str, str]], last: str) -> tuple[str, str] | None:
        """A conversation of `turns`, and what follows up to the answer to `last`; None of a model that has none."""
        tokenizer = self.parts[1]
        if not tokenizer.chat_template:
            return None
        said = [(role, text) for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]
        messages = [{"role": role, "content": text} for role, text in (*said, ("user", last))]
        try:
            context = str(tokenizer.apply_chat_template(messages[:-1], tokenize=False))
            whole = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # the template is a program of who published the model, run in a sandbox
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"{self.name}: its chat template fails ({reason}); {REMEDY}") from error
        return (context, whole.removeprefix(context)) if whole.startswith(context) else ("", whole)

    def go_on(
        self,
        context: str,
        text: str,
        most: int,
        ended: Callable[[str], bool],
        banned: Callable[[str], set[str]],
        among: Sequence[str] = (),
    ) -> tuple[str, bool]:
        """What follows `context` and `text` by the likeliest next token each time; whether the model ended there.

        most: tokens. ended: of what has followed so far, whether that is enough; banned: words that may not come next.
        among: texts that have all pieces of words that may come; empty for any.
        One text at a time, so that none hangs on what stands beside it; what `context` means to the model is kept.
        """
        import torch

        model, tokenizer = self.parts
        before, ids = self._ids(context, special=not tokenizer.chat_template), self._ids(text)
        begin, limit = len(before) + len(ids), getattr(model.config, "max_position_embeddings", None)
        if limit and begin + most > limit:
            raise UserError(f"{self.name} reads {limit} tokens; a prompt and its examples are {begin}, say it in fewer")

        given = len(tokenizer.decode(ids, skip_special_tokens=True))

        def so_far(row: torch.Tensor) -> str:  # behind what was given: some drop the space in front of a first word
            return str(tokenizer.decode(row[len(before) :], skip_special_tokens=True))[given:]

        usable = torch.tensor(sorted(self._pieces(tuple(among))), dtype=torch.long, device=model.device)

        def without_banned(rows: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            if among:
                scores = torch.full_like(scores, -torch.inf).index_copy(1, usable, scores[:, usable])
            words = list(banned(so_far(rows[0])))
            for *pieces, last in tokenizer(words, add_special_tokens=False)["input_ids"] if words else []:
                if rows[0, rows.shape[1] - len(pieces) :].tolist() == pieces:
                    scores[0, last] = -torch.inf
            return scores

        def enough(rows: torch.Tensor, scores: object) -> torch.Tensor:
            return torch.tensor([ended(so_far(rows[0]))], device=rows.device)

        row = torch.tensor([before + ids], device=model.device)
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of names within transformers
            kept = self._read(context, row[:, : len(before)])
            row = model.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=most, past_key_values=kept,
                                 logits_processor=[without_banned], stopping_criteria=[enough])[0]  # fmt: skip
        return so_far(row), len(row) < begin + most

    def _ids(self, text: str, special: bool = False) -> list[int]:
        return list(self.parts[1](text, add_special_tokens=special)["input_ids"]) if text or special else []

    def _pieces(self, texts: tuple[str, ...]) -> set[int]:
        """Numbers of all pieces that texts have, and of an end."""
        if self._counted != texts:
            ends = self.parts[0].generation_config.eos_token_id
            found = {piece for text in texts for piece in self._ids(text)} | {*self._ids("\n")}
            self._counted, self._usable = texts, found | set([ends] if isinstance(ends, int) else ends or [])
        return self._usable

    def _read(self, context: str, rows: Any) -> Any:
        """Keys and values of a context, to be added to; that of all prompts is read once."""
        import torch
        import transformers

        model = self.parts[0]
        if not rows.numel() or model._is_stateful:  # which keeps none
            return None
        if self._context != context:
            self._context, self._kept = context, transformers.DynamicCache(config=model.config)
            model.generate(rows, attention_mask=torch.ones_like(rows), max_new_tokens=1, past_key_values=self._kept)
        return copy.deepcopy(self._kept)


def is_complete(folder: Path) -> bool:
    """Whether a model in safetensors, its configuration and a tokenizer seem to be there."""
    return weights.is_complete(folder) and any(file.suffix == ".safetensors" for file in folder.iterdir())


def wanted(names: list[str]) -> list[str]:
    return [f"*{suffix}" for suffix in FILES]


def load(name: str, folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of a folder, float32, frozen. UserError if that holds no whole causal language model."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # unset, every forked loader worker prints a warning
    import torch
    import transformers

    from trainer.text.models import quiet_transformers

    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    try:
        with quiet_transformers():
            read: Any = transformers.AutoModelForCausalLM.from_pretrained
            model, report = read(
                folder, **options, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    except Exception as error:  # safetensors, tokenizers and transformers raise exceptions of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{name} cannot be loaded as a causal language model: {reason}; {REMEDY}") from error
    if unset := {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}:
        raise UserError(f"{name} lacks {len(unset)} fitting weights, as {min(unset)}: give a complete model")
    model, ends = model.eval().requires_grad_(False), model.generation_config.eos_token_id
    model.generation_config = transformers.GenerationConfig(  # a published one may ask for chance, or for penalties
        do_sample=False, eos_token_id=tokenizer.eos_token_id if ends is None else ends, pad_token_id=0
    )
    with torch.inference_mode():  # BERT loads as one, too, and reads what comes after a word
        first = model(input_ids=torch.tensor([[0, 1], [0, 2]])).logits[:, 0]
    if not torch.allclose(first[0], first[1], atol=1e-3):
        raise UserError(f"{name} is no causal language model: what it says of a word hangs on later ones; {REMEDY}")
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer
