"""Runs of others: whatever their files say, a page says it as text."""

from __future__ import annotations

import csv
import json
import os
from html.parser import HTMLParser

import pytest

from trainer.errors import UserError
from trainer.report import compare, single

EVIL = "</span><script>alert(1)</script><img src=x onerror=alert(1)>"
ALLOWED_SCRIPTS = 1  # the slider


class Tags(HTMLParser):
    def __init__(self, content):
        super().__init__()
        self.scripts, self.events = 0, []
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        self.events += [name for name, _ in attributes if name.startswith("on")]


def plant(run):
    """The script in every value and name of every file of a run."""
    figure = {"metric": EVIL, "value": 1.0, "better": "lower", "checkpoint": EVIL, "kimg": 1.0, "std": None}
    figure["protocol"] = {EVIL: EVIL, "backbone": EVIL}
    (run / "metrics.json").write_text(json.dumps({"figures": [figure]}))
    end = dict.fromkeys(("state", "reason", "traceback", "time", EVIL), EVIL)
    (run / "end.json").write_text(json.dumps(end))
    (run / "environment.txt").write_text(f"{EVIL}\n{EVIL.replace(' ', '')} {EVIL}\ncommand {EVIL}\npackages {EVIL}\n\n")
    (run / "README.md").write_text(f"| data | {EVIL} |\n| devices | {EVIL} |\n| skipped | {EVIL} |\n| {EVIL} | x |\n")
    config = {"name": EVIL, "kimg": 4.0, EVIL: {EVIL: EVIL}, "x": "${oc.env:HOME}"}
    for name in ("config.yaml", "composed.yaml"):
        (run / name).write_text(json.dumps(config))
    with open(run / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "progress/kimg", EVIL, f"val/{EVIL}", f"throughput/{EVIL}"])
        writer.writeheader()
        writer.writerows([dict.fromkeys(writer.fieldnames, i) for i in (1, 2)])


def test_no_value_of_a_run_becomes_a_tag(make, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/secret/home")
    first, second = make("one"), make("two", seed=1)
    plant(first)
    for content in (
        single.write(first, tmp_path / "a.html").read_text(),
        compare.write([first, second], tmp_path / "b.html").read_text(),
        compare.write([second, first], tmp_path / "c.html").read_text(),
    ):
        tags = Tags(content)
        assert (tags.scripts, tags.events) == (ALLOWED_SCRIPTS, [])
        assert "&lt;script&gt;" in content and "/secret/home" not in content


@pytest.mark.parametrize("end", ["[]", '"x"', "{}", '{"state": {"a": 1}}', '{"state": "x"}'])
def test_a_state_that_is_none_is_unfinished(make, end):
    run = make()
    (run / "end.json").write_text(end)
    assert single.Run(run).end["state"] in ("finished", "unfinished")
    single.write(run)


@pytest.mark.parametrize(
    "change", [{"better": EVIL}, {"value": EVIL}, {"std": "x"}, {"kimg": None}, {"metric": 1}, {"protocol": []}]
)
def test_a_figure_that_is_none_is_told(make, change):
    from trainer.runs import results

    run = make()
    figure = {"metric": "fid", "value": 1.0, "better": "lower", "checkpoint": "x", "kimg": 1.0, "protocol": {}} | change
    (run / "metrics.json").write_text(json.dumps({"figures": [figure]}))
    with pytest.raises(UserError, match="damaged"):
        results.read(run)
    assert Tags(single.write(run).read_text()).scripts == ALLOWED_SCRIPTS


def test_pictures_of_a_run_are_pngs_and_no_pipes(make):
    run = make()
    for name, content in (
        ("kimg000001.000", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"),
        ("kimg000002.000", b""),
    ):
        (run / "samples" / f"{name}.png").write_bytes(content)
    os.mkfifo(run / "samples" / "kimg000003.000.png")
    assert single.write(run).read_text().count("cannot be read") == 3
