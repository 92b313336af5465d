"""Channels of styles move as words say, by what they do to what a judge sees."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.editing.test_edits import CAPTIONS, Drawing, make, mean_colour
from tests.sampling.test_sampler import LATENT, Text
from trainer.editing import directions
from trainer.editing.canvas import Canvas, Point
from trainer.editing.directions import Effects, directed, effects, measured, relevance
from trainer.editing.edits import Judge
from trainer.errors import UserError
from trainer.networks import dcgan, r3gan, stylegan2

FEW = ["a red apple", "two cats", "a blue house"]


def colours(captions):
    """What is red is red, all else is grey."""
    return torch.tensor([[1.0, -1.0, -1.0] if "red" in each else [1.0, 1.0, 1.0] for each in captions])


JUDGE = Judge(mean_colour, colours, "a judge")


def points(canvas, count=2, seed=1):
    torch.manual_seed(seed)
    latent = torch.randn(count, canvas.objective.latent_channels)
    return Point(latent, canvas.read(CAPTIONS[:count]), torch.zeros(count, canvas.style_channels))


@pytest.mark.parametrize(("family", "own"), [(stylegan2, False), (dcgan, True), (r3gan, True)])
def test_channels_are_those_of_layers_in_a_stylegan_and_the_style_elsewhere(family, own):
    canvas = make(family)
    assert len(canvas.modulations) == (1 if own else 8), "of 16 pixels: five layers and three images"
    assert (sum(canvas.sizes) == canvas.style_channels) is own
    point = points(canvas)
    images, made = canvas(point), canvas.channels(point)
    assert made.shape == (2, sum(canvas.sizes))
    zero = torch.zeros_like(made, requires_grad=True)
    still = canvas(point._replace(channels=zero))
    assert torch.equal(still, images)
    [gradient] = torch.autograd.grad(still[0].square().sum(), zero)
    assert (gradient[0] != 0).float().mean() > 0.5 and not gradient[1].any()
    assert not torch.equal(canvas(point._replace(channels=made)), images)
    if own:
        torch.testing.assert_close(canvas(point._replace(channels=made)), canvas(point._replace(shift=made)))
    assert torch.equal(canvas(point), images), "nothing of it stays"


def test_a_way_leads_through_channels():
    start = points(make(), 1)
    end = start._replace(channels=torch.ones(1, 4))
    way = start.towards(end, torch.tensor([0.0, 0.5, 2.0]))
    assert way.channels[:, 0].tolist() == [0, 0.5, 2]
    assert start._replace(channels=3 * end.channels).towards(end, torch.tensor([0.5])).channels[0, 0] == 2
    assert end.rows([0, 0]).channels.shape == (2, 4) and start.towards(start, torch.tensor([1.0])).channels is None


def test_an_effect_is_what_a_deviation_more_and_less_does_to_what_is_seen(monkeypatch):
    monkeypatch.setattr(directions, "SPREAD", 40)
    monkeypatch.setattr(directions, "IMAGES", 3)
    canvas = make(stylegan2)
    seen = []

    class Spy(Text):
        def __call__(self, captions):
            seen.extend(captions)
            return super().__call__(captions)

    canvas.text = Spy()
    drawn_at = []
    plain = canvas.channels
    monkeypatch.setattr(canvas, "channels", lambda point: drawn_at.append(point) or plain(point))
    found = measured(canvas, JUDGE, FEW)
    assert len(seen) == 40 and {*seen} == {*FEW}
    every = drawn_at[0]
    torch.testing.assert_close(found.deviation, plain(every).std(0))
    number = int(found.deviation.argmax())
    more, less = (every.rows([0, 1, 2])._replace(channels=torch.zeros(3, len(found.deviation))) for _ in range(2))
    more.channels[:, number] += found.deviation[number]
    less.channels[:, number] -= found.deviation[number]
    wanted = F.normalize(mean_colour(canvas(more)), dim=1) - F.normalize(mean_colour(canvas(less)), dim=1)
    torch.testing.assert_close(found.change[number], wanted.mean(0))
    assert found.change[number].any()


def test_relevance_is_the_product_and_channels_that_do_the_same_share():
    torch.manual_seed(0)
    change, words = torch.randn(5, 3), torch.randn(2, 3)
    product = words @ change.T
    torch.testing.assert_close(relevance(change, words), product / product.abs().amax(1, keepdim=True))
    shared = relevance(change, words, 0.3)
    alone = 0.3 * change.square().sum(1).mean() * torch.eye(5)
    again = shared @ (change @ change.T + alone)
    torch.testing.assert_close(F.normalize(again), F.normalize(product))
    twice = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    both = torch.ones(1, 2)
    assert relevance(twice, both).tolist() == [[1, 1, 1]]
    assert relevance(twice, both, 0.01)[0, 0] == pytest.approx(0.5, abs=0.01), "each half of what the third does"
    assert relevance(torch.zeros(3, 2), both).tolist() == [[0, 0, 0]]


def test_of_all_that_is_tried_the_least_loss_is_taken_and_the_caption_stays(monkeypatch):
    monkeypatch.setattr(directions, "SPREAD", 40)
    monkeypatch.setattr(directions, "IMAGES", 8)
    canvas = make()
    start, found = points(canvas), measured(canvas, JUDGE, FEW)
    prompts = ["a red apple", "a red cat"]
    before, scores, far = canvas(start), {}, {}
    for identity in (0.0, 1.0, 1000.0):
        end = directed(canvas, start, ["an apple", "a cat"], prompts, JUDGE, found, identity)
        assert end.condition is start.condition and torch.equal(end.latent, start.latent)
        scores[identity] = JUDGE.score(canvas(end), JUDGE.captions(prompts))
        far[identity] = (canvas(end) - before).square().flatten(1).mean(1)
    assert (scores[0.0] > JUDGE.score(before, JUDGE.captions(prompts)) + 0.2).all()
    assert (scores[0.0] >= scores[1.0]).all() and (far[0.0] > far[1000.0]).all() and (far[1000.0] < 1e-3).all()
    alone = directed(canvas, start.rows([1]), ["a cat"], ["a red cat"], JUDGE, found, 0.0)
    whole = directed(canvas, start, ["an apple", "a cat"], prompts, JUDGE, found, 0.0)
    torch.testing.assert_close(alone.channels[0], whole.channels[1])


def test_a_threshold_keeps_what_is_less_relevant_where_it_is(monkeypatch):
    for name, value in {"SHARING": (torch.inf,), "THRESHOLDS": (0.5,), "LENGTHS": (2,)}.items():
        monkeypatch.setattr(directions, name, value)
    canvas = make()
    start, channels = points(canvas, 1), sum(canvas.sizes)
    change = torch.zeros(channels, 3)
    change[:3, 1] = torch.tensor([-0.8, 0.5, 0.3])  # green, of which red has less
    found = Effects(torch.full((channels,), 3.0), change)
    end = directed(canvas, start, ["an apple"], ["a red apple"], JUDGE, found, 1.0)
    torch.testing.assert_close(end.channels[0, :3], torch.tensor([2 * 3.0, -2 * 3 * 0.625, 0]))
    assert not end.channels[0, 3:].any()


def test_effects_are_measured_once_for_a_checkpoint_and_a_judge(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path))
    canvas, file = make(), tmp_path / "a.ckpt"
    file.write_bytes(b"weights")
    asked = []

    def once(canvas, judge, captions):
        asked.append(judge.sha256)
        return Effects(torch.arange(4.0), torch.arange(12.0).view(4, 3))

    monkeypatch.setattr(directions, "measured", once)
    for _ in range(2):
        found = effects(canvas, JUDGE, FEW, file)
        assert found.deviation.tolist() == [0, 1, 2, 3] and found.change[1].tolist() == [3, 4, 5]
    assert asked == ["a judge"]
    effects(canvas, JUDGE._replace(sha256="another"), FEW, file)
    effects(canvas, JUDGE, FEW[:2], file)
    file.write_bytes(b"trained on")
    effects(canvas, JUDGE, FEW, file)
    assert len(asked) == 4
    for kept in (tmp_path / "directions").iterdir():
        kept.write_bytes(kept.read_bytes()[:100])
    effects(canvas, JUDGE, FEW, file)
    assert len(asked) == 5, "what is torn is measured anew"


def test_a_generator_without_styles_has_none(tmp_path):
    class Plain(nn.Module):
        latent_channels = LATENT

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(LATENT, 3 * 16 * 16)

        def forward(self, latent, condition):
            return self.linear(latent).view(-1, 3, 16, 16)

    canvas = Canvas(Drawing(Plain()), Text())
    with pytest.raises(UserError, match="makes no style of latent and caption"):
        effects(canvas, JUDGE, FEW, tmp_path)
