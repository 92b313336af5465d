"""The front by brute force, and where its picture puts things."""

from __future__ import annotations

import random
import re

import pytest

from trainer.compression.comparison import pareto as module
from trainer.compression.comparison.pareto import Point, draw, front, of_stages, steps, svg


def beaten(point, points):
    return any(
        other.cost <= point.cost and other.fd <= point.fd and (other.cost, other.fd) != (point.cost, point.fd)
        for other in points
    )


@pytest.mark.parametrize("seed", range(20))
def test_the_front_by_brute_force(seed):
    rng = random.Random(seed)
    levels = 8 if seed % 2 else 1000  # with ties, and without
    points = [Point(str(i), rng.randrange(levels) + 1, rng.randrange(levels) + 1) for i in range(40)]
    found = front(points)
    assert {point.name for point in found} == {point.name for point in points if not beaten(point, points)}
    assert [point.cost for point in found] == sorted(point.cost for point in found)


def test_stairs_never_promise_what_no_point_has():
    points = [Point("a", 1, 9), Point("b", 3, 4), Point("c", 2, 9.5), Point("d", 7, 1)]
    assert steps(points) == [(1, 9), (3, 9), (3, 4), (7, 4), (7, 1)]


def test_points_of_stages_are_milliseconds_an_image(stages):
    stages[1].figures.clear()
    assert of_stages(stages) == [Point("teacher", 1000 / 210, 10.0), Point("int8", 1000 / 1680, 10.3)]


def test_the_figure_has_every_point_and_numbers_those_of_the_front():
    points = [Point("good", 4, 2), Point("beaten", 3, 9.5), Point("fast <&>", 1, 9)]
    drawn = svg(points, "MiB")
    circles = {
        name: (style, float(x), float(y))
        for style, x, y, name in re.findall(r'<circle class="(s\d)" cx="(.+?)" cy="(.+?)".*?<title>(.+?): ', drawn)
    }
    assert {name: style for name, (style, _, _) in circles.items()} == {
        "fast &lt;&amp;&gt;": "s0",
        "good": "s0",
        "beaten": "s7",
    }
    numbers = {
        int(n): (float(x) - 5, float(y) + 5) for x, y, n in re.findall(r'<text x="(\S+)" y="(\S+)">(\d)<', drawn)
    }
    assert numbers == {1: pytest.approx(circles["fast &lt;&amp;&gt;"][1:]), 2: pytest.approx(circles["good"][1:])}
    assert "beaten: 3 MiB, FD 9.5" in drawn
    assert ">MiB →</text>" in drawn


def test_the_picture_needs_matplotlib(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    points = [Point("a", 1, 9), Point("b", 30, 4), Point("c", 7, 9.5)]
    assert draw(points, tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 1000
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert not draw(points, tmp_path / "other.png")
    assert "no other.png: it needs matplotlib; pip install -e '.[plot]'" in capsys.readouterr().err
