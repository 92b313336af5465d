"""`from trainer import load`, as in a notebook."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

import trainer
from trainer import load
from trainer.errors import UserError
from trainer.sampling.sampler import Sampler


def test_every_prompt_with_every_seed_in_order(trained):
    pipe = load(trained)
    result = pipe(["a red apple", "a blue car"], seeds=range(3))
    assert result.prompts == ["a red apple"] * 3 + ["a blue car"] * 3
    assert result.seeds == [0, 1, 2] * 2
    assert [image.size for image in result.images] == [(16, 16)] * 6
    alone = pipe("a blue car", seeds=1)
    assert np.array_equal(np.asarray(alone.images[0]), np.asarray(result.images[4]))
    pixels = Sampler(pipe.objective, pipe.text, 3)(["a blue car"], [1])
    assert np.array_equal(np.asarray(alone.images[0]), pixels[0].permute(1, 2, 0).numpy())


def test_grid_has_a_row_a_prompt(trained):
    result = load(trained)(["a", "b"], seeds=range(3))
    width, height = result.grid().size
    assert width > height


def test_what_it_was_trained_as(trained):
    pipe = load(str(trained / "checkpoints" / "kimg000000.500.ckpt"), device="cpu")
    assert pipe.step == 10
    assert pipe.path.name == "kimg000000.500.ckpt"
    assert pipe.config["name"] == "small"


def test_the_latent_space_is_open(trained):
    pipe = load(trained / "checkpoints" / "kimg000000.500.ckpt")
    expected = pipe("a red apple", seeds=[4, 7]).pixels
    latents = pipe.latents([4, 7])
    drawn = pipe.draw(latents, pipe.condition("a red apple"), labels=["one", "two"])
    assert torch.equal(drawn.pixels, expected)
    assert drawn.prompts == ["one", "two"]
    assert not torch.equal(pipe.draw(latents * 0.5, pipe.condition("a red apple")).pixels, expected)
    of_two = pipe.draw(pipe.latents(4), pipe.condition(["a red apple", "a blue car"]))
    assert torch.equal(of_two.pixels, pipe(["a red apple", "a blue car"], seeds=4).pixels)
    assert of_two.grid().size[0] > of_two.grid().size[1]


def test_a_stream_draws_endless_prompts_batch_by_batch(trained):
    pipe = load(trained, batch_size=2)
    stream = pipe.stream(itertools.repeat("a red apple"), itertools.count())
    drawn = list(itertools.islice(stream, 3))
    assert [(prompt, seed) for prompt, seed, _ in drawn] == [("a red apple", seed) for seed in range(3)]
    expected = pipe("a red apple", seeds=range(3)).images
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for (_, _, a), b in zip(drawn, expected, strict=True))


def test_bad_input_is_told(trained):
    pipe = load(trained)
    for prompts, seeds in (("", 0), (["a", " "], 0), ([], 0), ("a", []), ([3], 0)):
        with pytest.raises(UserError, match="expected at least one"):
            pipe(prompts, seeds)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no usable GPU"):
            load(trained, device="cuda")


def test_the_package_imports_without_torch():
    code = "import sys, trainer; assert 'torch' not in sys.modules; assert 'load' in trainer.__all__"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = trainer.laod
