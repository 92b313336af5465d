"""Every family of text models, loaded from a folder, against its recipe written out with padding and masks."""

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from trainer.errors import UserError
from trainer.text.pretrained import Pretrained

CAPTIONS = ["a red apple", "the big blue car and a small green square on the circle", "apple", "a red car"]
ROUNDING = {"atol": 2e-3, "rtol": 2e-3}  # float16


def reference(name: str, folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, mask, pooled) of CAPTIONS in one padded batch."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    inputs = tokenizer(CAPTIONS, padding=True, return_tensors="pt")
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    classes = {"t5": transformers.T5EncoderModel, "clip": transformers.CLIPTextModelWithProjection}
    model = classes.get(name, transformers.AutoModel).from_pretrained(folder).eval()
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=mask)
    tokens = output.last_hidden_state
    if name == "clip":
        pooled = output.text_embeds
    elif name in ("gpt2", "smollm2"):
        pooled = tokens[torch.arange(len(ids)), mask.sum(1) - 1]
    else:
        pooled = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return tokens * mask[..., None], mask.bool(), F.normalize(pooled) if name == "minilm" else pooled


@pytest.mark.parametrize("name", ["minilm", "bert", "roberta", "albert", "gpt2", "smollm2", "t5", "clip"])
def test_family_matches_its_recipe(name: str, tmp_path: Path, save_model: Callable[..., Path]):
    folder = save_model("bert" if name == "minilm" else name, tmp_path / "model")
    encoder = Pretrained(name, 16, 20, path=str(folder), cache_dir=str(tmp_path))
    condition = encoder.prepare(CAPTIONS)[np.arange(4)]
    tokens, mask, pooled = reference(name, folder)
    length = tokens.shape[1]
    assert condition.tokens.shape == (4, 20, 16)
    assert condition.tokens.dtype == condition.pooled.dtype == torch.float16, "as they are stored, and travel"
    assert torch.equal(condition.mask, F.pad(mask, (0, 20 - length)))
    torch.testing.assert_close(condition.tokens.float(), F.pad(tokens, (0, 0, 0, 20 - length)), **ROUNDING)
    torch.testing.assert_close(condition.pooled.float(), pooled, **ROUNDING)
    assert pooled.std() > 0.01  # otherwise the comparison says nothing


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "smollm2", "t5", "clip"])
def test_empty_caption_has_a_token(name: str, tmp_path: Path, save_model: Callable[..., Path]):
    encoder = Pretrained(name, 16, 8, path=str(save_model(name, tmp_path / "model")), cache_dir=str(tmp_path))
    condition = encoder(["", "a red apple"])
    assert condition.mask[0].any()
    assert condition.tokens.isfinite().all()
    assert condition.pooled.isfinite().all()


def test_real_minilm_is_sentence_transformers_recipe(tmp_path: Path):
    encoder = Pretrained("minilm", 384, 24, cache_dir=str(tmp_path))
    captions = ["a red apple", "an apple that is red", "two dogs run along a wet beach at sunset"]
    condition = encoder(captions)
    model = transformers.AutoModel.from_pretrained(encoder.folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder.folder)
    inputs = tokenizer(captions, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs).last_hidden_state
    weight = inputs["attention_mask"][..., None].float()
    torch.testing.assert_close(condition.pooled, F.normalize((output * weight).sum(1) / weight.sum(1)), **ROUNDING)
    alike = condition.pooled @ condition.pooled.T
    assert alike[0, 1] > 0.9
    assert alike[0, 2] < 0.3


def test_longer_captions_keep_their_end_token(tmp_path: Path, bert_folder: Path, capfd: pytest.CaptureFixture[str]):
    encoder = Pretrained("bert", 16, 5, path=str(bert_folder), cache_dir=str(tmp_path))
    cut, whole = encoder([CAPTIONS[1]]), encoder(["the big blue"])
    torch.testing.assert_close(cut.tokens, whole.tokens)  # [CLS] the big blue [SEP]
    assert capfd.readouterr().err == "text: 1 of 1 captions cut to text.max_tokens=5, longest: 14\n"


def test_loading_prints_nothing(tmp_path: Path, bert_folder: Path, capfd: pytest.CaptureFixture[str]):
    Pretrained("bert", 16, 20, path=str(bert_folder), cache_dir=str(tmp_path))(CAPTIONS)
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.is_progress_bar_enabled()


def error_of(tmp_path: Path, name: str, width: int, max_tokens: int, path: Path) -> str:
    with pytest.raises(UserError) as caught:
        Pretrained(name, width, max_tokens, path=str(path), cache_dir=str(tmp_path))(["a red apple"])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_width_names_both_and_the_override(tmp_path: Path, bert_folder: Path):
    assert "text.width=384, but" in (message := error_of(tmp_path, "bert", 384, 20, bert_folder))
    assert message.endswith("has width 16: set text.width=16")


def test_too_many_tokens_names_the_limit(tmp_path: Path, bert_folder: Path, save_model: Callable[..., Path]):
    assert error_of(tmp_path, "bert", 16, 40, bert_folder).endswith("reads 32: set text.max_tokens=32")
    assert error_of(tmp_path, "roberta", 16, 33, save_model("roberta", tmp_path / "model")).endswith("max_tokens=32")


def test_model_of_another_kind_is_refused(tmp_path: Path, bert_folder: Path):
    assert "holds a bert model, text.encoder.name=t5 expects t5" in error_of(tmp_path, "t5", 16, 20, bert_folder)


def test_incomplete_weights_are_refused(tmp_path: Path, save_model: Callable[..., Path]):
    from safetensors.torch import load_file, save_file

    folder = save_model("bert", tmp_path / "model")
    weights: dict[str, Any] = load_file(folder / "model.safetensors")
    dropped = {key: value for key, value in weights.items() if "layer.1.output.dense" not in key}
    assert len(dropped) == len(weights) - 2
    save_file(dropped, folder / "model.safetensors", metadata={"format": "pt"})
    assert "lacks 2 fitting weights of bert, as encoder.layer.1." in error_of(tmp_path, "bert", 16, 20, folder)


def test_weights_of_another_size_are_refused(tmp_path: Path, save_model: Callable[..., Path]):
    folder = save_model("bert", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    assert "lacks 6 fitting weights of bert" in error_of(tmp_path, "bert", 16, 20, folder)


def test_broken_files_are_one_line(tmp_path: Path, save_model: Callable[..., Path]):
    folder = save_model("bert", tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"no weights")
    assert "cannot be loaded as text encoder bert" in error_of(tmp_path, "bert", 16, 20, folder)


def test_clip_must_project_to_its_own_width(tmp_path: Path, save_model: Callable[..., Path]):
    folder = save_model("clip", tmp_path / "model", projection_dim=8)
    assert "projects 16 channels to 8" in error_of(tmp_path, "clip", 16, 20, folder)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_one_model_for_all_that_read_by_the_same_files(name, tmp_path, save_model):
    """Wherever they lie; another length to cut to is no other model, other weights are, and none stays without use."""
    folder = save_model(name, tmp_path / "model")
    shutil.copytree(folder, tmp_path / "copy")
    short, long = (
        Pretrained(name, 16, tokens, path=str(tmp_path / where), cache_dir=str(tmp_path))
        for tokens, where in ((4, "model"), (20, "copy"))
    )
    caption = ["the big blue car and a small green square"]
    alone = short(caption).tokens
    assert long(caption).mask.sum() > 4
    assert short._loaded is long._loaded
    assert torch.equal(short(["a red apple", *caption]).tokens[1:], alone)
    other = Pretrained(name, 16, 4, path=str(save_model(name, tmp_path / "other", seed=1)), cache_dir=str(tmp_path))
    other(caption)
    assert other._loaded is not long._loaded
    model = weakref.ref(long._loaded.model)
    del short, long
    gc.collect()
    assert model() is None, "nobody uses it"
