"""Curves stand where their values say."""

import itertools
import re

import pytest

from trainer.report.plot import BOTTOM, HEIGHT, LEFT, MOST_POINTS, RIGHT, TOP, WIDTH, Axis, chart, downsample, short


def places(svg):
    return [
        [tuple(map(float, point.split(","))) for point in line.split()] for line in re.findall('points="(.+?)"', svg)
    ]


def test_a_straight_line_goes_from_corner_to_corner():
    (line,) = places(chart("loss", {"generator": [(0.0, 1.0), (5.0, 2.0), (10.0, 3.0)]}))
    left, right, low, high = LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM, TOP
    assert line == [(left, low), ((left + right) / 2, (low + high) / 2), (right, high)]


def test_powers_of_ten_are_a_straight_line_on_a_logarithmic_axis():
    svg = chart("r1", {"": [(float(i), 10.0 ** (i - 4)) for i in range(5)]})
    (line,) = places(svg)
    steps = {round(b[1] - a[1], 1) for a, b in itertools.pairwise(line)}
    assert len(steps) == 1
    assert "<small>log</small>" in svg
    assert "<small>log</small>" not in chart("r1", {"": [(0.0, -1.0), (1.0, 1000.0)]})
    once_near_zero = [(float(i), 1.0 if i else 1e-6) for i in range(40)]
    assert "<small>log</small>" not in chart("logits", {"": once_near_zero})


def test_level_lines_and_single_points_stand_in_the_middle():
    middle = (HEIGHT - BOTTOM + TOP) / 2
    for value in (0.0, 3.0, -2e-5):
        (line,) = places(chart("rate", {"": [(0.0, value), (1.0, value)]}))
        assert [y for _, y in line] == [pytest.approx(middle, abs=0.1)] * 2
    assert f'cy="{middle:.1f}"' in chart("rate", {"": [(1.0, 5.0)]})


def test_ticks_are_round_and_inside():
    assert Axis([0.64, 55.0], 0, 100, 5).ticks == [10, 20, 30, 40, 50]
    assert Axis([5e-5, 1e-3], 0, 100, 4).ticks == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3])
    assert Axis([0.002, 3.0], 0, 100, 4, may_be_log=True).ticks == pytest.approx([0.01, 0.1, 1])


def test_long_curves_are_thinned_to_means():
    points = [(float(i), float(i % 2)) for i in range(2 * MOST_POINTS)]
    assert downsample(points) == [(2 * i + 0.5, 0.5) for i in range(MOST_POINTS)]


def test_colours_stay_with_their_place_and_the_legend_has_the_last_value():
    svg = chart("a & b", {"gone": [], "here <": [(0.0, 1.0), (1.0, 0.125)]})
    assert '<span class="s1">here &lt; <b>0.125</b></span>' in svg
    assert "gone" not in svg
    assert "<h3>a &amp; b</h3>" in svg


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234.5, "1.23k"),
        (999.9, "1e+03"),
        (2.5e6, "2.5M"),
        (-1500, "-1.5k"),
        (1.2e-5, "1.2e-05"),
        (0.1, "0.1"),
    ],
)
def test_numbers_are_short(value, text):
    assert short(value) == text
