"""Pictures that a generator drew are found again, words move them, and what is to stay stays."""

import pytest
import torch
from torch import nn

from tests.sampling.test_sampler import LATENT, TOKENS, WIDTH, Text
from trainer.batch import Condition
from trainer.editing.canvas import Canvas, Point
from trainer.editing.edits import Judge, optimized, replaced
from trainer.editing.inversion import invert
from trainer.errors import UserError
from trainer.metrics.similarity import psnr
from trainer.networks import attngan, dcgan, progressive, r3gan, residual, stylegan2, transformer
from trainer.runs import checkpoint
from trainer.sampling.pipeline import load
from trainer.sampling.sampler import as_pixels
from trainer.text.labels import Nothing

NARROW = {"base_channels": 8, "max_channels": 16}
FAMILIES = {
    **dict.fromkeys((dcgan, residual, stylegan2, r3gan, progressive), NARROW),
    attngan: {**NARROW, "caption_channels": 8, "stages": 2},
    transformer: {"width": 48, "depth": 2},
}
CAPTIONS = ["a red apple", "two cats"]


class Drawing(nn.Module):
    """As `checkpoint.load` leaves an objective."""

    draws_with = "generator"

    def __init__(self, generator):
        super().__init__()
        self.generator, self.latent_channels, self.config = generator, generator.latent_channels, {"name": "x"}
        self.eval().requires_grad_(False)

    def sample(self, latent, condition):
        return self.generator(latent, condition)


def make(family=dcgan, **more):
    torch.manual_seed(0)
    generator = family.Generator(16, LATENT, WIDTH, nn.Identity(), **FAMILIES[family] | more)
    for parameter in generator.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)  # else words, which a generator begins without, change nothing
    return Canvas(Drawing(generator), Text())


@pytest.fixture(scope="module")
def canvas():
    return make()


@pytest.fixture(scope="module")
def drawn(canvas):
    """Two images, and where they are."""
    torch.manual_seed(1)
    point = Point(torch.randn(2, LATENT), canvas.read(CAPTIONS), torch.zeros(2, canvas.style_channels))
    return canvas(point), point


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__.rpartition(".")[2])
def test_a_canvas_draws_what_the_generator_does_with_gradients_and_styles_of_its_own(family):
    canvas = make(family)
    generator = canvas.objective.generator
    latent = torch.randn(2, canvas.objective.latent_channels, requires_grad=True)
    shift = torch.zeros(2, canvas.style_channels, requires_grad=True)
    assert canvas.resolution == (16, 16) and canvas.style_channels > 0
    images = canvas(Point(latent, canvas.read(CAPTIONS), shift))
    assert torch.equal(images, generator(latent, Text()(CAPTIONS)))
    gradients = torch.autograd.grad(images[0].square().sum(), [latent, shift])
    for each in gradients:
        assert each[0].any() and not each[1].any(), "an image is of its own point"
    assert not torch.equal(canvas(Point(latent, canvas.read(CAPTIONS), shift + 1)), images)
    assert torch.equal(generator(latent, Text()(CAPTIONS)), images), "nothing of it stays"


def test_a_text_encoder_within_reads_once(trained):
    pipe = load(trained)
    canvas = Canvas(pipe.objective, pipe.text)
    latent, words = pipe.latents([1, 2]), canvas.read(CAPTIONS)
    assert words.tokens.is_floating_point()
    images = as_pixels(canvas(Point(latent, words, latent.new_zeros(2, 0))))
    assert (images.int() - pipe.sampler(CAPTIONS, [1, 2]).int()).abs().max() <= 1


def test_a_way_begins_here_ends_there_and_goes_on(canvas, drawn):
    images, point = drawn
    start, end = point.rows([0]), point.rows([1])._replace(shift=point.shift[1:] + 1)
    way = start.towards(end, torch.tensor([0.0, 0.5, 1.0, 2.0]))
    assert torch.allclose(way.latent[2], end.latent[0]) and torch.allclose(way.latent[1], point.latent.mean(0))
    assert torch.allclose(way.latent[3], 2 * end.latent[0] - start.latent[0])
    assert torch.equal(way.shift[:, 0], torch.tensor([0.0, 0.5, 1.0, 2.0]))
    on_it = canvas(way)
    assert torch.allclose(on_it[:1], images[:1], atol=1e-5) and torch.allclose(on_it[2:3], canvas(end), atol=1e-5)


@pytest.mark.parametrize(("family", "decibels"), [(dcgan, 40), (stylegan2, 33)], ids=["dcgan", "stylegan2"])
def test_what_a_generator_drew_is_found_again(family, decibels):
    canvas = make(family)
    torch.manual_seed(1)
    count = canvas.objective.latent_channels
    images = canvas(Point(torch.randn(2, count), canvas.read(CAPTIONS), torch.zeros(2, canvas.style_channels)))
    other = canvas(Point(torch.randn(2, count), canvas.read(CAPTIONS), torch.zeros(2, canvas.style_channels)))
    found = invert(canvas, images, CAPTIONS)
    again = psnr(as_pixels(canvas(found)), as_pixels(images))
    assert again.min() > decibels, "some grey levels"
    assert again.min() > psnr(as_pixels(other), as_pixels(images)).max() + 10, "which any latent would not be"
    same = invert(canvas, images, CAPTIONS)
    assert torch.equal(found.latent, same.latent) and torch.equal(found.shift, same.shift)
    assert not torch.equal(found.latent, invert(canvas, images, CAPTIONS, seed=1).latent)
    alone = invert(canvas, images[1:], CAPTIONS[1:])
    assert psnr(as_pixels(canvas(alone)), as_pixels(images)[1:]).min() > decibels


def test_an_encoder_says_where_to_begin(canvas, drawn, monkeypatch):
    images, point = drawn
    asked = []

    def posterior(image, condition):
        asked.append((image, condition))
        return point.latent, point.latent

    monkeypatch.setattr(canvas.objective, "posterior", posterior, raising=False)
    found = invert(canvas, images, CAPTIONS, steps=0)
    assert torch.equal(found.latent, point.latent) and torch.equal(asked[0][0], images)
    assert torch.equal(asked[0][1].pooled, Text()(CAPTIONS).pooled)


def mean_colour(images):
    return images.mean((2, 3))


RED = Judge(mean_colour, lambda captions: torch.tensor([[1.0, -1.0, -1.0]]).expand(len(captions), 3))


def test_a_judge_moves_what_is_drawn_and_identity_keeps_it(canvas, drawn):
    images, start = drawn
    prompts = ["a red car", "a red house"]
    end = replaced(canvas, start, prompts)
    assert torch.equal(end.latent, start.latent) and torch.equal(end.condition.pooled, Text()(prompts).pooled)
    wanted = RED.captions(prompts)
    scores, distances = {}, {}
    for identity in (0.0, 1.0, 1000.0):
        point = optimized(canvas, end, prompts, RED, identity)
        assert torch.equal(point.condition.pooled, end.condition.pooled)
        scores[identity] = RED.score(canvas(point), wanted)
        distances[identity] = (canvas(point) - canvas(end)).square().flatten(1).mean(1)
    before = RED.score(canvas(end), wanted)
    assert (scores[0.0] > before + 0.2).all() and (scores[1.0] > before).all()
    assert (distances[0.0] > distances[1.0]).all() and (distances[1.0] > distances[1000.0]).all()
    assert (distances[1000.0] < distances[0.0] / 20).all() and not torch.allclose(canvas(end), images, atol=1e-2)


class Codes(nn.Module):
    """Draws one of two images."""

    latent_channels = 4

    def __init__(self):
        super().__init__()
        self.book = nn.Parameter(torch.zeros(2))

    def forward(self, latent, condition):
        return torch.where(latent[:, :1] > 0, 0.5, -0.5)[:, :, None, None].expand(-1, 3, 8, 8)


def test_what_cannot_be_led_is_refused():
    objective = make().objective
    with pytest.raises(UserError, match="no gradient leads back through"):
        Canvas(Drawing(Codes()), Text())
    objective.draws_with = ""
    with pytest.raises(UserError, match="draws no images"):
        Canvas(objective, Text())
    objective.draws_with, objective.generator.task = "generator", "inpainting"
    with pytest.raises(UserError, match="takes a picture as it is"):
        Canvas(objective, Text())
    boxed = checkpoint.load("shapes")
    with pytest.raises(UserError, match="a run of shapes draws in steps"):
        Canvas(boxed, load("shapes").text)


def test_one_without_words_has_a_point_all_the_same():
    torch.manual_seed(0)
    generator = dcgan.Generator(16, LATENT, 16, nn.Identity(), **NARROW)
    canvas = Canvas(Drawing(generator), Nothing(16))
    start = invert(canvas, torch.zeros(1, 3, 16, 16), [""], steps=2)
    end = start._replace(shift=start.shift + 1)
    way = start.towards(end, torch.tensor([0.0, 1.0]))
    assert isinstance(way.condition, Condition) and len(way.condition.mask) == 2
    assert canvas(way).shape == (2, 3, 16, 16) and TOKENS
