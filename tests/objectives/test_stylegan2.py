"""StyleGAN2's losses against the paper's equations; ranks, parts of a batch and a resume change nothing of them."""

from functools import partial

import pytest
import torch
from conftest_objectives import LATENT, make_gan, make_stylegan2, random_batch, run
from test_gan import at_step
from torch.func import jacrev

from trainer.errors import UserError
from trainer.networks import dcgan
from trainer.objectives.stylegan2 import StyleGAN2


def noisy(gan):
    with torch.no_grad():
        for name, parameter in gan.generator.named_parameters():
            if name.endswith("strength"):
                parameter.fill_(0.5)
    return gan


def test_path_length_is_that_of_the_jacobian():
    """Eq. 4 with the whole Jacobian of each image, written out; its gradient reaches every weight of the synthesis."""
    gan, batch = at_step(noisy(make_stylegan2(path_length=3.0, path_length_interval=4)), 4), random_batch(4).as_float()
    gan.mean_path_length.fill_(0.1)
    value, logs = gan.generator_loss(batch)
    latent = gan.normal("generator/path", batch, gan.latent_channels)
    z, maps = gan.generator.unpacked(latent)
    styles = gan.generator.mapping(z, batch.condition)[:, None].repeat(1, gan.generator.num_styles, 1).detach()
    direction = gan.normal("generator/direction", batch, 3 * 16 * 16) / 16
    lengths = []
    for i in range(4):
        row = slice(i, i + 1)
        noise = [None if each is None else each[row] for each in maps]

        def draw(style, row=row, noise=noise):
            return gan.generator.synthesis(style[None], noise, batch.condition.rows(row)).flatten()

        product = torch.einsum("pls,p->ls", jacrev(draw)(styles[i]), direction[i])
        lengths.append((product.square().sum() / gan.generator.num_styles).sqrt())
    lengths = torch.stack(lengths)
    torch.testing.assert_close(logs["generator/path_length"], lengths.mean(), rtol=1e-4, atol=1e-6)
    penalty = (lengths - 0.1).square().mean()
    torch.testing.assert_close(logs["generator/path_penalty"], penalty, rtol=1e-4, atol=1e-6)
    weights = dict(gan.generator.synthesis.named_parameters())
    ours, theirs = (
        torch.autograd.grad(each, list(weights.values()), retain_graph=True, allow_unused=True)
        for each in (logs["generator/path_penalty"], penalty)
    )
    for name, slope, expected in zip(weights, ours, theirs, strict=True):
        assert slope is not None or expected is None or not expected.any(), name
        if slope is not None:
            torch.testing.assert_close(slope, expected, rtol=1e-3, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    without, other = at_step(gan, 5).generator_loss(batch)
    assert "generator/path_length" not in other
    torch.testing.assert_close(value - without, 12 * penalty, rtol=1e-3, atol=1e-6)


def test_first_length_is_the_mean_then_it_decays():
    gan, seen = make_stylegan2(path_length_interval=2, path_length_decay=0.25), []
    step = gan.training_step

    def watched(batch, batch_idx):
        step(batch, batch_idx)
        seen.append((gan.logs.get("generator/path_length"), gan.mean_path_length.item(), gan.logs))

    gan.training_step = watched
    run(gan, [random_batch(start=8 * i) for i in range(6)])
    assert [each is None for each, _, _ in seen] == [False, True] * 3
    first, second, third = (seen[i][0].item() for i in (0, 2, 4))
    assert seen[0][2]["generator/path_penalty"] == 0
    expected = [first, first + 0.25 * (second - first)]
    expected.append(expected[1] + 0.25 * (third - expected[1]))
    assert [mean for _, mean, _ in seen][::2] == pytest.approx(expected, rel=1e-5)


def test_mixing_swaps_all_styles_from_one_convolution_on():
    gan, drawn = make_stylegan2(mixing=0.5), []
    gan.generator.synthesis.forward = lambda styles, *_: drawn.append(styles) or torch.zeros(len(styles), 3, 16, 16)
    batch = random_batch(400).as_float()
    gan.generated(batch, "generator")
    z, _ = gan.generator.unpacked(gan.normal("generator", batch, gan.latent_channels))
    own = gan.generator.mapping(z, batch.condition)
    other = gan.generator.mapping(gan.normal("generator/mixing", batch, LATENT), batch.condition)
    (styles,) = drawn
    is_own = (styles - own[:, None]).abs().amax(2) < 1e-6
    torch.testing.assert_close(styles, torch.where(is_own[..., None], own[:, None], other[:, None]))
    kept = is_own.sum(1)
    assert all(is_own[i, : kept[i]].all() for i in range(400))
    counts = kept.bincount(minlength=gan.generator.num_styles + 1).tolist()
    assert counts[0] == 0 and counts[-1] == pytest.approx(200, abs=40)
    assert all(count == pytest.approx(200 / (len(counts) - 2), abs=25) for count in counts[1:-1])


def test_mixing_hangs_on_the_position():
    gan, batch = make_stylegan2(), random_batch(8).as_float()
    whole = gan.generated(batch, "generator")
    parts = [gan.generated(batch[part], "generator") for part in (slice(0, 3), slice(3, 8))]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert (gan.generated(batch, "discriminator") - whole).abs().max() > 1e-2
    gan.mixing = 0
    plain = gan.generator(gan.normal("generator", batch, gan.latent_channels), batch.condition)
    torch.testing.assert_close(gan.generated(batch, "generator"), plain)


def test_accumulation_equals_the_large_batch(batches):
    sgd = partial(torch.optim.SGD, lr=0.05)
    make = partial(make_stylegan2, optimizer=sgd, group=2, r1=0.1, path_length_interval=1)
    whole, split = make(), make(accumulate=4)
    run(whole, batches[:4])
    run(split, batches[:4])
    for (name, a), (_, b) in zip(whole.named_parameters(), split.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
    torch.testing.assert_close(whole.mean_path_length, split.mean_path_length, rtol=1e-4, atol=1e-6)


def test_groups_stay_together():
    with pytest.raises(UserError, match=r"multiple of 8, as each part must have as many images, in groups of 4"):
        run(make_stylegan2(accumulate=2), [random_batch(12)])
    assert make_stylegan2(group=3, matching=1.0).together == 6
    assert make_gan(matching=1.0).together == 2


def test_resumes_bit_for_bit(tmp_path):
    batches = [random_batch(start=8 * i) for i in range(6)]
    make = partial(make_stylegan2, r1=0.1, path_length_interval=2)
    whole = make()
    run(whole, batches)
    run(make(), batches[:3]).save_checkpoint(tmp_path / "half.ckpt")
    resumed = make()
    run(resumed, batches[3:], ckpt_path=tmp_path / "half.ckpt", max_epochs=2)
    assert whole.mean_path_length > 0
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_a_generator_without_styles_is_refused():
    gan = make_gan()
    assert isinstance(gan.generator, dcgan.Generator)
    with pytest.raises(UserError, match=r"has no styles to mix: take generator=stylegan2"):
        StyleGAN2(
            gan.generator, discriminator=gan.discriminator, loss=gan.loss, optimizer={}, schedule=gan.schedule, seed=0
        )
