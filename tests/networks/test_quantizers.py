"""Bottlenecks against the equations of their papers; their statistics over micro-batches and ranks."""

from itertools import product

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from trainer.errors import UserError
from trainer.networks.quantizers import FSQ, VQ, Gaussian

LEVELS = [8, 5, 4, 3]


def test_fsq_rounds_as_the_paper_says():
    fsq, z = FSQ(LEVELS), 2 * torch.randn(16, 4, 3, 3)
    latent, codes, cost = fsq(z, torch.empty(16, 0))
    for channel, levels in enumerate(LEVELS):
        half, offset = (levels - 1) * 1.001 / 2, 0.5 * (levels % 2 == 0)
        bounded = half * torch.tanh(z[:, channel] + torch.atanh(torch.tensor(offset / half))) - offset
        torch.testing.assert_close(latent[:, channel] * (levels // 2), bounded.round())
    assert latent.min() == -1
    assert latent.max() <= 1
    assert torch.equal(fsq.encode(z), codes)
    assert not cost.any()


def test_fsq_numbers_every_code_once():
    fsq = FSQ(LEVELS)
    codes = torch.arange(8 * 5 * 4 * 3).view(-1, 1, 1)
    values = fsq.decode(codes).flatten(1) * torch.tensor([4, 2, 2, 1])
    expected = set(product(range(-4, 4), range(-2, 3), range(-2, 2), range(-1, 2)))
    assert {tuple(row) for row in values.round().int().tolist()} == expected
    assert torch.equal(fsq.numbers(values[..., None, None]), codes)


def test_fsq_reaches_every_level_and_maps_zero_to_zero():
    fsq = FSQ([8, 5])
    z = torch.linspace(-6, 6, 4001)[:, None, None, None].expand(-1, 2, 1, 1)
    assert [len(fsq(z, z).latent[:, i].unique()) for i in (0, 1)] == [8, 5]
    assert not fsq(torch.zeros(1, 2, 1, 1), z).latent.any()


def test_gradients_pass_the_rounding():
    fsq, z = FSQ(LEVELS), torch.randn(2, 4, 1, 1, requires_grad=True)
    fsq(z, z).latent.sum().backward()
    half, offset = ((torch.tensor(LEVELS) - 1) * 1.001 / 2).view(1, 4, 1, 1), torch.tensor([0.5, 0, 0.5, 0])
    shift = torch.atanh(offset.view(1, 4, 1, 1) / half)
    slope = half * (1 - torch.tanh(z + shift).square()) / torch.tensor([4, 2, 2, 1]).view(1, 4, 1, 1)
    torch.testing.assert_close(z.grad, slope.detach())
    vq, z = VQ(7, 3), torch.randn(2, 3, 2, 2, requires_grad=True)
    vq(z, z).latent.sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))


def test_vq_takes_the_nearest_and_pays_commitment():
    vq, z = VQ(16, 3, commitment=0.5), torch.randn(4, 3, 2, 5)
    latent, codes, cost = vq(z, z)
    distances = (z.movedim(1, -1)[..., None, :] - vq.codebook).square().sum(-1)
    assert torch.equal(codes, distances.argmin(-1))
    torch.testing.assert_close(latent, vq.codebook[codes].movedim(-1, 1))
    torch.testing.assert_close(cost, 0.5 * distances.min(-1).values.mean((1, 2)) / 3)
    torch.testing.assert_close(vq.decode(codes), latent)


def step(vq, features, normals, parts=1):
    vq.revive()
    codes = vq.encode(features)
    for each in zip(features.chunk(parts), codes.chunk(parts), normals.chunk(parts), strict=True):
        vq.observe(*each)
    vq.update(len(features))
    return codes


def test_codebook_is_the_moving_average_of_its_vectors():
    vq = VQ(2, 2, halflife_kimg=0.008, revive_below=0)  # of 8 images: decay 1/2
    vq.shares.fill_(0.5)
    vq.sums.copy_(torch.tensor([[0.5, 0.0], [0.0, 0.5]]))  # codes (1, 0) and (0, 1)
    z = torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 2.0], [0.0, 2.0]]).repeat(2, 1).view(8, 2, 1, 1)
    step(vq, z, torch.zeros(8, 2))
    shares = torch.tensor([0.5 * 0.5 + 0.5 * 0.25, 0.5 * 0.5 + 0.5 * 0.75])  # n <- d n + (1 - d) share
    torch.testing.assert_close(vq.shares, shares)
    sums = torch.tensor([[0.5 * 0.5 + 0.5 * 0.25 * 3, 0.0], [0.0, 0.5 * 0.5 + 0.5 * 0.75 * 2]])
    torch.testing.assert_close(vq.codebook, sums / shares[:, None])


def test_dead_codes_become_vectors_of_the_data():
    vq, draw = VQ(8, 2), torch.Generator().manual_seed(0)
    seen = []
    for _ in range(40):
        z = torch.randn(16, 2, 2, 2, generator=draw) + 5
        seen.append(z.movedim(1, -1).reshape(-1, 2))
        step(vq, z, torch.randn(16, 2, generator=draw))
    assert (vq.codebook - 5).abs().max() < 4, "a code that no vector was near to is still where it began"
    assert vq.used(4) == 1
    assert vq.perplexity() > 4
    before = vq.codebook
    vq.shares[3] = 0  # dead from now on; the sums of its offers are those of the last step
    assert vq.offers.sum() > 0
    single = torch.zeros(8).index_fill(0, torch.tensor(3), 1.0)
    vq.offers.copy_(single / 64)
    vq.offered.copy_(single[:, None] / 64 * torch.tensor([4.0, 6.0]))
    vq.revive()
    torch.testing.assert_close(vq.codebook[3], torch.tensor([4.0, 6.0]))
    assert torch.equal(vq.codebook[:3], before[:3])
    assert not vq.offers.any()


def test_offers_are_vectors_of_the_batch():
    vq, z = VQ(4096, 3), torch.randn(8, 3, 4, 4)
    step(vq, z, torch.randn(8, 2))
    offered = (vq.offered / vq.offers[:, None])[vq.offers > 0]
    assert len(offered) == 8
    vectors = z.flatten(2).transpose(1, 2)  # (8, 16, 3), one of each image
    nearest = (vectors[None] - offered[:, None, None]).abs().amax(3).amin(2)
    assert (nearest < 1e-5).sum(0).tolist() == [1] * 8


@pytest.mark.parametrize("make", [lambda: VQ(32, 3), lambda: FSQ([4, 4, 3])])
def test_two_ranks_and_micro_batches_equal_one_process(make):
    torch.manual_seed(3)
    one, two, ranks = make(), make(), [make(), make()]
    for other in (two, *ranks):
        other.load_state_dict(one.state_dict())
    for _ in range(5):
        z, normals = torch.randn(8, 3, 2, 2), torch.randn(8, 2)
        step(one, z, normals)
        step(two, z, normals, parts=4)
        for rank, features, draws in zip(ranks, z.chunk(2), normals.chunk(2), strict=True):
            rank.revive()
            rank.observe(features, rank.encode(features), draws)
            rank.update(8)
        for first, second in zip(*(rank.state_dict().values() for rank in ranks), strict=True):
            mean = (first + second) / 2  # what a strategy does behind each step
            first.copy_(mean)
            second.copy_(mean)
        for key, value in one.state_dict().items():
            torch.testing.assert_close(two.state_dict()[key], value)
            torch.testing.assert_close(ranks[0].state_dict()[key], value)


def test_use_counts_codes_of_the_window():
    fsq = FSQ([4, 4], halflife_kimg=0.1)
    for codes in (torch.zeros(10, 2, 2), torch.arange(40).view(10, 2, 2) % 8):
        fsq.observe(codes, codes.long(), codes)
        fsq.update(10)
    assert fsq.used(4) == 0.5
    for _ in range(100):  # 10 half-lives of one code
        fsq.observe(codes, torch.zeros(10, 2, 2).long(), codes)
        fsq.update(10)
    assert fsq.used(4) == 1 / 16
    assert fsq.perplexity() < 1.1


def test_gaussian_latents():
    bottleneck, features, normals = Gaussian(2, kl_weight=0.5), torch.randn(3, 4, 2, 2), torch.randn(3, 8)
    latent, codes, cost = bottleneck(features, normals)
    mean, log_variance = features.chunk(2, 1)
    posterior = Normal(mean, (log_variance / 2).exp())
    torch.testing.assert_close(latent, mean + posterior.scale * normals.view(3, 2, 2, 2))
    torch.testing.assert_close(cost, 0.5 * kl_divergence(posterior, Normal(0.0, 1.0)).mean((1, 2, 3)))
    assert codes is None
    assert bottleneck.num_draws(2, 2) == 8


def test_levels_are_checked():
    with pytest.raises(UserError, match="at least 2"):
        FSQ([8, 1])
    with pytest.raises(UserError, match="halflife_kimg=0"):
        VQ(halflife_kimg=0)
