"""A file of pairs of pictures, and the line that says what is wrong with one."""

import json

import pytest
import torch
from PIL import Image

from trainer.data.preferences import read
from trainer.errors import UserError

COLOURS = {"red.png": (250, 0, 0), "blue.jpg": (0, 0, 250), "in/grey.png": (128, 128, 128)}


@pytest.fixture
def file(tmp_path):
    (tmp_path / "in").mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (20, 12), colour).save(tmp_path / name)
    lines = [{"better": "red.png", "worse": "blue.jpg", "caption": "a"}, {"better": "red.png", "worse": "in/grey.png"}]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines * 6) + "\n\n")
    return path


def test_pairs_are_numbers_of_pictures(file):
    pictures, better, worse = read(file, 8)
    assert (pictures.shape, pictures.dtype) == ((3, 3, 8, 8), torch.uint8)
    assert (better.tolist(), worse.tolist()) == ([0, 0] * 6, [1, 2] * 6)
    assert pictures[0, :, 0, 0].tolist() == [250, 0, 0]
    assert pictures[1, 2].float().mean() > 240


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"better": "red.png"}', "line 15: expected"),
        ("red.png blue.jpg", "line 15: expected"),
        ('["red.png", "blue.jpg"]', "line 15: expected"),
        ('{"better": "red.png", "worse": 3}', "line 15: expected"),
        ('{"better": "red.png", "worse": "red.png"}', "two pictures"),
        ('{"better": "red.png", "worse": "pairs.jsonl"}', "pairs.jsonl is no picture that can be read"),
        ('{"better": "red.png", "worse": "gone.png"}', "gone.png is no picture that can be read"),
    ],
)
def test_a_line_that_is_no_pair(file, line, said):
    file.write_text(file.read_text() + "\n" + line + "\n")
    with pytest.raises(UserError, match=said) as raised:
        read(file, 8)
    assert "\n" not in str(raised.value) and str(file) in str(raised.value)


def test_too_few_pairs_and_no_file(file):
    file.write_text(file.read_text().splitlines()[0])
    with pytest.raises(UserError, match="1 pairs, expected at least 10"):
        read(file, 8)
    with pytest.raises(UserError, match=r"pairs=.*none.jsonl: expected a file"):
        read(file.with_name("none.jsonl"), 8)
