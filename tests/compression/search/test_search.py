"""The search: where it goes, where it stops, and what it answers, with passes and figures made up."""

from types import SimpleNamespace

import pytest

from trainer.compression.search.candidate import Candidate
from trainer.compression.search.targets import Goal, Point, search
from trainer.errors import UserError

COSTS = {"prune": 0.7, "low_rank": 0.9, "fold": 0.95, "int8": 0.5}  # each takes so much of the time
RISES = {"prune": 0.02, "low_rank": 0.03, "fold": 0.0, "int8": 0.015}  # and adds so much of the distance


def step(name):
    return lambda candidate: Candidate(candidate.network, (*candidate.passes, name))


def finish(*names):
    return lambda candidate: Candidate(candidate.network, (*candidate.passes, *names))


def measured(candidate):
    time, distance = 1.0, 100.0
    for name in candidate.passes:
        time *= COSTS[name]
        distance *= 1 + RISES[name]
    gain = 1 / time
    return Point(candidate, {"latency": gain, "throughput": gain, "size": 2 * gain - 1}, distance, 100.0)


def found(target, rounds=12, moves=("prune", "low_rank"), measure=measured):
    start = Candidate(SimpleNamespace())
    finishes = [finish("fold"), finish("fold", "int8")]
    return search(Goal.parse(target), start, {name: step(name) for name in moves}, finishes, measure, rounds)


def test_it_stops_at_the_target_with_the_smallest_distance():
    best, points = found("latency:4x")
    assert best.gains["latency"] >= 4
    assert best.candidate.passes == ("prune", "prune", "fold", "int8")  # 1 / (0.49 * 0.95 * 0.5) = 4.3
    met = [point for point in points if point.gains["latency"] >= 4]
    assert best.fd == min(point.fd for point in met)
    assert len(points) == 3 + 2 * 4, "two rounds of two moves with two finishes, and no more"


def test_what_needs_no_lossy_step_takes_none():
    best, points = found("throughput:2x")
    assert best.candidate.passes == ("fold", "int8")
    assert len(points) == 3


def test_size_is_its_own_gain():
    best, _ = found("size:3x")  # 2 g - 1 >= 3
    assert best.gains["size"] >= 3
    assert best.candidate.passes == ("fold", "int8")


def test_a_bound_on_the_distance_gives_the_fastest_within_it():
    best, points = found("fd:+5%")
    assert best.rise <= 0.05
    assert best.gains["throughput"] == max(point.gains["throughput"] for point in points if point.rise <= 0.05)
    assert best.candidate.passes == ("prune", "fold", "int8")  # a second prune would be at 5.6%
    assert any(point.rise > 0.05 for point in points), "it went up to the bound"


def test_what_cannot_be_reached_is_said_and_the_most_is_given(capsys):
    best, points = found("latency:100x", rounds=2)
    assert best.gains["latency"] == max(point.gains["latency"] for point in points)
    assert "target latency:100x was not reached" in capsys.readouterr().err


def test_it_ends_where_steps_gain_nothing(capsys):
    def flat(candidate):
        return Point(candidate, dict.fromkeys(("latency", "throughput", "size"), 1.0), 100.0, 100.0)

    _, points = found("latency:2x", measure=flat)
    assert len(points) == 3 + 4
    assert "was not reached" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "goal"),
    [("latency:4x", Goal("latency", 4)), ("size:1.5x", Goal("size", 1.5)), ("fd:+5%", Goal("fd", 0.05))],
)
def test_goals(text, goal):
    assert Goal.parse(text) == goal


@pytest.mark.parametrize("text", ["latency", "latency:1x", "latency:-2x", "speed:4x", "fd:5%", "fd:+x%", "latency:4"])
def test_goals_that_are_none(text):
    with pytest.raises(UserError, match=r"expected latency:4x, throughput:4x, size:8x"):
        Goal.parse(text)


@pytest.mark.parametrize(
    ("passes", "name"),
    [
        ((), "as trained"),
        (("fold", "int8"), "fold+int8"),
        (("prune", "finetune") * 3 + ("fold",), "3(prune+finetune)+fold"),
        (("prune", "prune", "int8", "int8_weights"), "2(prune)+int8+int8_weights"),
        (("prune", "finetune", "low_rank", "finetune", "fold"), "prune+finetune+low_rank+finetune+fold"),
    ],
)
def test_names_say_once_what_was_done_again(passes, name):
    assert Candidate(SimpleNamespace(), passes).name == name
