"""trainer.sampling.describing: the table of captions that it writes."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from trainer.sampling import describing
from trainer.sampling.captions import Written

PICTURES = ("a.png", "b.png", "c.png", "d.png")


@pytest.mark.parametrize(
    "before, after",
    [
        ([], [*PICTURES]),
        (["a.png", "c.png"], [*PICTURES]),  # where people captioned one half, the table of all is in one order
        (["d.png", "b.png"], ["d.png", "b.png", "a.png", "c.png"]),
        (["c.png", "c.png"], ["c.png", "c.png", "a.png", "b.png", "d.png"]),
        (["a.png", "lost.png"], ["a.png", "lost.png", "b.png", "c.png", "d.png"]),
    ],
)
def test_lines_stand_in_the_order_of_pictures_where_those_of_people_did(before, after, monkeypatch, tmp_path, capsys):
    for name in PICTURES:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    own = [{"file_name": name, "text": f"{number} of people"} for number, name in enumerate(before)]
    table = tmp_path / "metadata.jsonl"
    if own:
        table.write_text("".join(json.dumps(row) + "\n" for row in own))
    monkeypatch.setattr(
        describing, "described", lambda pipe, paths, how: ((path, [Written("grey", -0.5)]) for path in paths)
    )
    pipe = SimpleNamespace(config={"name": "captioning"}, path=Path("run/checkpoints/kimg1.ckpt"))
    describing.write(pipe, tmp_path, None, describing.Writing())
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert [row["file_name"] for row in rows] == after
    assert [row for row in rows if "machine" not in row] == own
    assert f"{len(own)} of 4 pictures had theirs" in capsys.readouterr().out
