"""Composed, negative, guided and interpolated captions: parsed, drawn, and refused where they do not fit."""

import numpy as np
import pytest
import torch

from trainer import load
from trainer.batch import Condition
from trainer.errors import UserError
from trainer.sampling.conditioning import Conditioning, parse_composition
from trainer.sampling.features import between, joined, mixed, shifted, slerp
from trainer.text.labels import Nothing


@pytest.mark.parametrize(
    ("caption", "parts"),
    [
        ("an elephant + a garden", [("an elephant", 0.5), ("a garden", 0.5)]),
        ("an elephant:0.6 + a garden:0.2", [("an elephant", 0.75), ("a garden", 0.25)]),
        ("a cat: 3 + a dog", [("a cat", 0.75), ("a dog", 0.25)]),
        ("a C++ book", [("a C++ book", 1.0)]),
        ("1+1", [("1+1", 1.0)]),
        ("flag: Iceland + keycap: nine:3", [("flag: Iceland", 0.25), ("keycap: nine", 0.75)]),
    ],
)
def test_a_plus_with_space_around_it_parts_captions(caption, parts):
    assert parse_composition(caption) == [(name, pytest.approx(weight)) for name, weight in parts]


@pytest.mark.parametrize(
    "caption", ["a cat + ", "+ a cat", "a + + b", "a cat:0 + a dog", "a:-1 + b", "a:0,3 + b"]
)
def test_what_is_no_composition_is_refused(caption):
    with pytest.raises(UserError, match=r"expected 'a cat:2 \+ a dog:1'"):
        parse_composition(caption)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compose": "sum"}, "compose=sum: expected mean, words or null"),
        ({"negative": " "}, "negative: expected a caption"),
        ({"guidance": -1.0}, "guidance=-1.0: expected a number from 0"),
        ({"guidance": float("nan")}, "guidance=nan: expected a number from 0"),
        ({"negative_scale": 2.0}, "negative_scale=2.0: of negative='a dog' alone"),
        ({"negative_scale": 2.0, "negative": "a", "guidance": 3.0}, "negative_scale=2.0: of negative='a dog' alone"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(UserError, match=message):
        Conditioning(**settings)


def text(captions):
    """Features by the letters of a caption, as many words as it has."""
    mask = torch.arange(8)[None] < torch.tensor([[len(caption.split())] for caption in captions])
    seeds = [sum(map(ord, caption)) for caption in captions]
    pooled = torch.stack([torch.randn(4, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    return Condition(torch.randn(len(captions), 8, 4, generator=torch.Generator().manual_seed(1)) * 0 + pooled[:, None]
                     * mask[..., None], mask, pooled)  # fmt: skip


def equal(one: Condition, other: Condition) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))


def test_captions_become_the_conditions_of_their_settings():
    captions = ["an elephant:3 + a garden", "a cat"]
    two, cat, weights = text(["an elephant", "a garden"]), text(["a cat"]), torch.tensor([0.75, 0.25])
    assert equal(Conditioning()(text, captions), text(captions))
    mean = Conditioning(compose="mean")(text, captions)
    assert equal(mean.rows([0]), mixed(two, weights[None]))
    assert equal(mean.rows([1]), mixed(cat, torch.ones(1, 1)))
    words = Conditioning(compose="words")(text, captions)
    assert equal(words.rows([0]), joined(two, weights))
    away = Conditioning(compose="mean", negative="a dog")(text, captions)
    assert equal(away, shifted(mean, text(["a dog"]), 1.0))
    assert equal(
        Conditioning(negative="a dog", negative_scale=3.0)(text, ["a cat"]), shifted(cat, text(["a dog"]), 3.0)
    )
    assert equal(Conditioning(negative="a dog", guidance=3.0)(text, ["a cat"]), cat)  # it guides, in the image


def test_guidance_draws_the_formula(of_classes):
    pipe = load(of_classes)
    latents = pipe.latents(range(5))
    draw = pipe.objective.sample
    with torch.no_grad():
        cat, empty, dog = (draw(latents, pipe.condition(each).rows([0] * 5)) for each in ("cat", "", "dog"))
    for settings, away in (({"guidance": 3.0}, empty), ({"guidance": 2.0, "negative": "dog"}, dog)):
        expected = (away + settings["guidance"] * (cat - away)).clamp(-1, 1).add(1).mul(127.5)
        pixels = pipe("cat", range(5), **settings).pixels
        assert (pixels - expected).abs().max() <= 0.51
        assert (pixels.float() - cat.add(1).mul(127.5)).abs().max() > 2, "it would show nothing"
    for scale, other in ((1.0, "cat"), (0.0, "")):
        same = (
            pipe("cat", range(5), guidance=scale).pixels.int() - pipe.draw(latents, pipe.condition(other)).pixels.int()
        )
        assert same.abs().max() <= 1


def test_one_seed_is_one_image_also_when_guided(of_classes):
    captions, seeds = ["cat", "dog + fox", "owl"] * 6, [*range(18)]
    settings = {"guidance": 2.5, "compose": "mean", "negative": "bee"}
    whole = load(of_classes, batch_size=16).conditioned(**settings).sampler(captions, seeds).int()
    assert (whole[0] - whole[3]).abs().max() > 2
    for size in (1, 3, 8):
        images = load(of_classes, batch_size=size).conditioned(**settings).sampler(captions, seeds).int()
        assert (images - whole).abs().max() <= 1


def test_composed_and_negative_captions_are_drawn(of_classes):
    pipe = load(of_classes)
    latents, two = pipe.latents([4]), pipe.condition(["cat", "dog"])
    expected = pipe.draw(latents, mixed(two, torch.tensor([[0.75, 0.25]]))).pixels
    assert torch.equal(pipe("cat:3 + dog", 4, compose="mean").pixels, expected)
    assert not torch.equal(pipe("cat:3 + dog", 4).pixels, expected)  # a caption with a plus stays one
    expected = pipe.draw(latents, shifted(two.rows([0]), two.rows([1]), 2.0)).pixels
    assert torch.equal(pipe("cat", 4, negative="dog", negative_scale=2.0).pixels, expected)
    assert pipe.conditioned(negative="dog").sampler is pipe.conditioned(negative="dog").sampler
    with pytest.raises(UserError, match=r"2 tokens, the model reads at most text\.max_tokens=1"):
        pipe("cat + dog", compose="words")


def test_rows_between_captions_and_between_seeds(of_classes):
    pipe = load(of_classes)
    samples = pipe.interpolate(["cat", "dog"], seeds=[2, 5], steps=4)
    assert samples.columns == 4
    assert samples.prompts == ["cat", "0.33", "0.67", "dog"] * 2
    assert torch.equal(samples.pixels[[0, 3, 4, 7]], pipe(["cat", "dog"], [2, 5]).pixels[[0, 2, 1, 3]])
    third = between(pipe.condition(["cat", "dog"]), torch.linspace(0, 1, 4)[1:2])
    assert torch.equal(samples.pixels[5:6], pipe.draw(pipe.latents(5), third).pixels)
    seeds = pipe.interpolate("cat", seeds=[2, 5], steps=3, negative="dog")
    assert torch.equal(seeds.pixels[[0, 2]], pipe("cat", [2, 5], negative="dog").pixels)
    middle = slerp(*pipe.latents([2, 5]), torch.tensor([0.5]))
    away = pipe.conditioned(negative="dog")
    assert torch.equal(seeds.pixels[1:2], away.draw(middle, away.condition("cat")).pixels)
    for captions, numbers, steps in (("cat", 0, 8), (["a", "b", "c"], 0, 8), (["a", "b"], 0, 1), (["a", " "], 0, 8)):
        with pytest.raises(UserError, match="expected"):
            pipe.interpolate(captions, numbers, steps)


def test_a_run_says_what_it_cannot(trained, of_classes):
    pipe = load(trained)
    with pytest.raises(UserError, match=r"guidance=3: this run has seen no empty caption"):
        pipe("a cat", guidance=3)
    for settings in ({"compose": "mean"}, {"negative": "a dog"}):
        with pytest.raises(UserError, match="do not mix: train with text=minilm"):
            pipe("a cat", **settings)
    with pytest.raises(UserError, match="do not mix"):
        pipe.interpolate(["a cat", "a dog"])
    assert np.asarray(pipe.interpolate("a cat", seeds=[0, 1]).grid()).size  # ids need no mixing between seeds
    with pytest.raises(TypeError):
        pipe("a cat", guidence=3)


def test_a_model_without_text_goes_from_seed_to_seed_alone(of_classes):
    pipe = load(of_classes)
    pipe.text = pipe.sampler.text = Nothing(16)
    samples = pipe.interpolate("", seeds=[2, 5], steps=3)
    assert samples.prompts == ["seed 2", "0.50", "seed 5"]
    assert torch.equal(samples.pixels[[0, 2]], pipe("", [2, 5]).pixels)
    for settings in ({"guidance": 2.0}, {"negative": "dog"}, {"compose": "mean"}):
        with pytest.raises(UserError, match="this model reads no captions"):
            pipe("", **settings)
