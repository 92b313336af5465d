"""The page holds the values, and what it shows is what was drawn."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from trainer.compression.comparison import charts, page
from trainer.compression.comparison.grid import side_by_side
from trainer.compression.comparison.pareto import Point
from trainer.compression.comparison.variant import Stage
from trainer.errors import UserError

VOID = {"meta", "img", "input", "br"}


class Checked(HTMLParser):
    """Every tag is closed in its turn; nothing is fetched."""

    def __init__(self, content: str):
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        for key, value in attributes:
            assert key not in ("href", "srcset", "action"), key
            assert key != "src" or value.startswith("data:image/png"), value[:80]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def grids(stages):
    torch.manual_seed(0)
    return {each.name: torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8) for each in stages}


@pytest.fixture
def written(stages, grids, tmp_path):
    protocol = {"num_images": 2048, "backbone": "effnet"}
    points = [Point("fold", 1.0, 9.0), Point("int8", 0.5, 9.5), Point("low <rank>", 0.9, 12.0)]
    captions = ["a red circle", "a <blue> square"]
    return page.write(tmp_path / "proof", "cgan <compressed>", stages, points, grids, captions, protocol, "MiB")


def test_the_page_says_what_was_gained_and_lost(written):
    words = " ".join(Checked(written.read_text(encoding="utf-8")).words)
    assert "cgan <compressed>" in words
    for tile in ("8.00× faster", "4.00× quicker", "4.00× smaller", "+3.0%", "-0.5 points", "98.0% → 97.5%"):
        assert tile in words
    for cell in ("1,680 (16)", "10.3 (+3.0%)", "norms and modulation <joined>", "700", "3.50"):
        assert cell in words
    assert re.search(r"teacher: p50 8, p95 9, p99 12", words)
    assert "figures: num_images" in words and "2048" in words
    assert "torch" in words and torch.__version__ in words


def test_what_got_worse_is_called_so(stages):
    worse = dict(zip(("throughput", "latency", "size"), (row[1] for row in page.headline(stages[::-1])), strict=False))
    assert worse == {"throughput": "8.00× slower", "latency": "4.00× slower", "size": "4.00× larger"}


def test_the_readme_says_the_same_and_its_pictures_are_there(written):
    text = (written.parent / "proof.md").read_text(encoding="utf-8")
    assert "- throughput: **8.00× faster** (images/s: 210 → 1,680)" in text
    assert "| int8 " in text
    for name in re.findall(r"!\[\w+\]\((.+?)\)", text):
        assert (written.parent / name).is_file()
    assert "![grid](grid.png)" in text


def test_the_grid_holds_the_pixels(written, grids):
    content = re.search('src="data:image/png;base64,(.+?)"', written.read_text(encoding="utf-8"))[1]
    embedded = Image.open(io.BytesIO(base64.b64decode(content)))
    beside = Image.open(written.parent / "grid.png")
    assert embedded.tobytes() == beside.tobytes() == side_by_side(grids, ["a red circle", "a <blue> square"]).tobytes()
    pixels = torch.frombuffer(bytearray(beside.tobytes()), dtype=torch.uint8).view(beside.height, beside.width, 3)
    last = grids["int8"][1].permute(1, 2, 0)
    enlarged = last.repeat_interleave(2, 0).repeat_interleave(2, 1)
    top, left = 8 + 2 * (128 + 8), beside.width - 8 - 128
    assert torch.equal(pixels[top : top + 128, left : left + 128], enlarged)


def test_images_of_another_size_are_refused(grids):
    with pytest.raises(ValueError, match="side by side"):
        side_by_side({**grids, "small": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)}, ["a", "b"])


def test_all_of_it_can_be_read_again(written, stages):
    saved = json.loads((written.parent / "proof.json").read_text(encoding="utf-8"))
    assert [each["name"] for each in saved["stages"]] == [each.name for each in stages]
    last = saved["stages"][2]
    assert last["figures"]["psnr_teacher"] == 34.56
    assert last["speed"]["latency_ms"] == stages[2].speed.latency_ms
    assert last["size"]["bytes"] == stages[2].size.bytes
    assert saved["points"][2] == {"name": "low <rank>", "cost": 0.9, "fd": 12.0}
    assert saved["cost"] == "MiB"
    assert saved["measured"]["figures: num_images"] == 2048


def test_what_is_not_known_is_not_on_the_page(tmp_path):
    path = page.write(tmp_path, "bare", [Stage("teacher"), Stage("int8")])
    content = path.read_text(encoding="utf-8")
    Checked(content)
    for title in ("Same captions", "Front", "fresh process", "Speed"):
        assert f"<h2>{title}" not in content
    assert sorted(each.name for each in tmp_path.iterdir()) == ["proof.html", "proof.json", "proof.md"]


def test_a_folder_that_cannot_be_made_is_a_line(tmp_path, stages):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="name a folder that can be written"):
        page.write(tmp_path / "file", "x", stages)


def test_bars_end_at_the_median(stages):
    drawn = charts.latency(stages)
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height="11"', drawn)]
    assert widths == pytest.approx([8 * widths[2] / 2, 2 * widths[2], widths[2]], rel=0.01)
    assert charts.latency([Stage("x")]) == charts.throughput([Stage("x")]) == ""


def test_throughput_has_a_curve_a_stage_and_each_batch_size(stages):
    drawn = charts.throughput(stages)
    assert drawn.count("<polyline") == 3
    assert [int(s) for s in re.findall(r'text-anchor="middle">(\d+)<', drawn)] == [1, 4, 16]
