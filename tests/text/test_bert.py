"""BERT in plain PyTorch against `transformers`, from the same files."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from trainer.text import bert, models
from trainer.text.weights import minilm_folder

TEXTS = [
    *("", "a cat", "Ünïcødé café, 苹果 🍎!!", "it's RED (circle) [MASK] [CLS] a-b/c", "x" * 150, "  two  spaces\t\n"),
    *("naïve é", "1.5 3-D ﬁ ＡＢＣ", " ".join(["word"] * 600)),
    *(
        " ".join(random.Random(k).choices(["a", "the", "red", "blue", "big", "apple", "car", "on", "of", "zebra"], k=k))
        for k in range(1, 30)
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return minilm_folder(tmp_path_factory.mktemp("checksums"))


@pytest.mark.parametrize("cut", [{}, {"truncation": True, "max_length": 7}], ids=["whole", "cut"])
def test_ids_are_those_of_transformers(folder: Path, cut: dict[str, int]):
    _, tokenizer = bert.read(folder)
    assert (
        tokenizer(TEXTS, **cut)["input_ids"]
        == transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, **cut)["input_ids"]
    )
    assert len(tokenizer(TEXTS[-1:])["input_ids"][0]) == 31, "a cut holds for its call alone"


@torch.inference_mode()
def test_features_are_those_of_transformers(folder: Path):
    model, tokenizer = bert.read(folder)
    reference = transformers.AutoModel.from_pretrained(folder).eval()
    for text in TEXTS[:8]:
        ids = torch.tensor(tokenizer([text])["input_ids"])
        mine, theirs = model(ids).last_hidden_state, reference(ids).last_hidden_state
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    both = tokenizer(TEXTS[1:3])["input_ids"]
    longest = max(map(len, both))
    ids = torch.tensor([each + [0] * (longest - len(each)) for each in both])
    mask = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in both])
    mine, theirs = (each(ids, attention_mask=mask).last_hidden_state for each in (model, reference))
    torch.testing.assert_close(mine * mask[..., None], theirs * mask[..., None], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "change", [{"hidden_act": "relu"}, {"position_embedding_type": "relative_key"}, {"is_decoder": True}], ids=str
)
def test_another_kind_is_left_to_transformers(bert_folder: Path, tmp_path: Path, change: dict[str, object]):
    assert bert.read(bert_folder)
    for file in bert_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    assert bert.read(tmp_path) is None
    if "hidden_act" in change:
        assert isinstance(models.load("bert", tmp_path)[0], transformers.PreTrainedModel)


def test_it_needs_no_transformers(folder: Path):
    code = (
        "import sys; from trainer.text.pretrained import Pretrained\n"
        "assert Pretrained('minilm', 384, 24)(['a red apple']).tokens.any()\n"
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
