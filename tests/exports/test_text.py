"""The text encoder inside a program."""

from hydra.utils import instantiate

from trainer.exports.text import included
from trainer.runs.export_files import TOKENIZER
from trainer.text.pieces import Tokens


def test_cut_captions_are_told(pretrained, tmp_path, capfd):
    included(instantiate(pretrained("bert") | {"max_tokens": 5}), tmp_path)
    tokens = Tokens(str(tmp_path / TOKENIZER), 5)
    capfd.readouterr()
    assert tokens(["a red apple", ""]).mask.sum(1).tolist() == [5, 2]  # with a start and an end
    assert capfd.readouterr().err == ""
    assert tokens(["a red apple", "a big red apple", "the small green car"]).mask.all()
    assert capfd.readouterr().err == "text: 2 of 3 captions cut to text.max_tokens=5\n"
