"""The table of experiments: means and spreads over seeds, of one protocol, between the anchors."""

from __future__ import annotations

import statistics

import pytest

from trainer.report import __main__ as verb
from trainer.report.experiments import spread, tables
from trainer.report.run import Run
from trainer.runs import results

JUDGE = {"backbone": "effnet2", "num_images": 2000, "data": "abc"}
ANCHORS = {"real": 11.0, "shuffled": 237.0, "pictures": "some"}


@pytest.fixture
def measured(make):
    """Two experiments, of three seeds and of one; each was measured in training, too."""

    def run(name, seed, fd, scene, more=""):
        folder = make(name, seed=seed)
        for file in ("config.yaml", "composed.yaml"):
            text = (folder / file).read_text().replace("name: small", f"name: {name[:-1]}")
            (folder / file).write_text(f"{text}{more}")
        about = {"better": "lower", "checkpoint": "kimg000004.000.ckpt", "kimg": 4.0}
        figures = [
            results.Figure("fd_effnet2", fd, protocol=JUDGE, anchors=ANCHORS, **about),
            results.Figure("fd_effnet2", 9000.0, protocol=JUDGE, **(about | {"kimg": 2.0, "checkpoint": "kimg000002"})),
            results.Figure("fd_effnet2", 5000.0, protocol=JUDGE | {"num_images": 500}, **about),
            results.Figure("psnr", 20.0, protocol=JUDGE, **about),
        ]
        if scene is not None:
            ends = {"real": 1.0, "shuffled": 0.01, "pictures": "some"}
            figures.append(results.Figure("attributes_scene", scene, protocol=JUDGE, anchors=ends, **about))
        results.add(folder, figures)
        return folder

    return [run("a0", 0, 100.0, 0.9), run("a1", 1, 110.0, 0.8), run("a2", 2, 126.0, None), run("b0", 0, 60.5, 0.95)]


def test_mean_and_spread_over_seeds_between_the_anchors(measured):
    (found,) = tables([Run(folder) for folder in measured])
    about = ["experiment", "runs", "kimg", "minutes", "images/s", "parameters"]
    assert found.head == [*about, "fd_effnet2", "attributes_scene"]
    real, a, b, shuffled = found.rows
    std = statistics.stdev([100, 110, 126])
    assert a == ["a", "3", "4 ± 0", "8 ± 0", "120.5 ± 0", "generator 1.2M", f"112 ± {std:.2g}", "85 ± 7.1% of 2"]
    assert b == ["b", "1", "4", "8", "120.5", "generator 1.2M", "60.5", "95%"]
    assert real == ["other real pictures", "", "", "", "", "", "11", "100%"]
    assert found.note == "2000 images: fd_effnet2, attributes_scene"
    assert shuffled == ["training pictures, captions ignored", "", "", "", "", "", "237", "1%"]


def test_runs_of_other_settings_or_other_data_are_no_seeds_of_each_other(measured):
    changes = (measured[0], "kimg: 4.0", "kimg: 5.0"), (measured[1], "size: 32", "size: 32, resolution: 64")
    for folder, old, new in changes:
        for file in ("config.yaml", "composed.yaml"):
            text = (folder / file).read_text()
            (folder / file).write_text(text.replace(old, new))
    found = {table.title: [row[0] for row in table.rows[1:-1]] for table in tables([Run(each) for each in measured])}
    assert found == {"data at None pixels": ["a, kimg=5.0", "a, kimg=4.0", "b"], "data at 64 pixels": ["a"]}


def test_a_budget_from_a_table_is_its_entry(measured):
    """Seeds are of one experiment where another entry of the table changed in between."""
    for i, folder in enumerate(measured):
        text = (folder / "composed.yaml").read_text()
        (folder / "composed.yaml").write_text(text.replace("kimg: 4.0", f"kimg: ${{by_name:small,4,other,{i}}}"))
    (found,) = tables([Run(folder) for folder in measured])
    assert [row[:2] for row in found.rows[1:-1]] == [["a", "3"], ["b", "1"]]


def test_without_figures_there_is_no_table(make):
    assert list(tables([Run(make("a")), Run(make("b"))])) == []


def test_it_is_printed_and_on_the_page(measured, command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = command(*map(str, measured), main=verb.main)
    assert done.code == 0 and done.out.splitlines()[-1] == "compare.html"
    assert any(line.startswith("| a ") and "112 ± 13 |" in line for line in done.out.splitlines())
    page = (tmp_path / "compare.html").read_text()
    assert "<h2>Experiments</h2>" in page and "112 ± 13" in page and "training pictures, captions ignored" in page


def test_what_others_wrote_moves_no_cursor(measured):
    evil = results.Figure("fd_\x1b[2J|", 1.0, "lower", "x", 5.0, JUDGE)
    results.add(measured[0], [evil])
    (found,) = tables([Run(folder) for folder in measured])
    assert "\x1b" not in found.text() and "fd_?[2J?" in found.text()


@pytest.mark.parametrize(
    ("values", "text"), [([], ""), ([12.345], "12.35"), ([1.0, 3.0], "2 ± 1.4"), ([20000.0, 20300.0], "20150 ± 212")]
)
def test_spread_is_the_standard_deviation_of_a_sample(values, text):
    assert spread(values) == text
