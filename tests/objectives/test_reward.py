"""Fine-tuning by a reward: its loss as written, a start that stays, and a policy gradient that is the exact one."""

from dataclasses import replace
from functools import partial
from itertools import product
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest_objectives import (
    LATENT,
    TEXT,
    Brightness,
    See,
    loop_arguments,
    make_dalle,
    make_gan,
    make_maskgit,
    make_restoration,
    make_reward,
    make_reward_tokens,
    make_vae,
    random_batch,
    run,
)
from torch import nn

from trainer.errors import UserError
from trainer.losses.perceptual import Perceptual
from trainer.networks.prior import Prior
from trainer.networks.token_generators import Choice, Parallel
from trainer.networks.worded import WordedGenerator
from trainer.objectives.guidance import DROPPED
from trainer.objectives.policy import PolicyGradient
from trainer.size import Size
from trainer.strategies.single import Single

MAKE = {"reward": make_reward, "reward_tokens": make_reward_tokens}


def ready(objective):
    objective._trainer = SimpleNamespace(global_step=0, world_size=1, strategy=Single("cpu"))
    return objective


def test_the_loss_is_as_written():
    objective, batch = make_reward(weight=2.0, pixel=0.3, perceptual_weight=0.7), random_batch().as_float()
    latent = objective.normal("generator", batch, LATENT)
    drawn, first = (network(latent, batch.condition) for network in (objective.generator, objective.start))
    assert not torch.equal(drawn, first)
    reward = ((-1.0) ** batch.caption * drawn.mean((1, 2, 3))).mean()
    leash = 0.3 * (drawn - first).abs().mean() + 0.7 * Perceptual(See)(drawn, first).mean()
    loss, logs = objective.generator_loss(batch)
    torch.testing.assert_close(loss, leash - 2 * reward)
    torch.testing.assert_close(logs["generator/reward"], reward)
    torch.testing.assert_close(logs["generator/leash"], leash)


def test_without_a_leash_there_is_no_start():
    objective = make_reward(pixel=0.0, perceptual_weight=0.0)
    assert objective.start is None and not any(key.startswith("start") for key in objective.state_dict())
    batch = random_batch().as_float()
    loss, logs = objective.generator_loss(batch)
    torch.testing.assert_close(loss, -logs["generator/reward"])
    assert "generator/leash" not in logs


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_dropped_caption_asks_for_nothing(make):
    objective, batch = ready(make()), random_batch().as_float()
    image = torch.rand(8, 3, 16, 16)
    some = replace(batch, caption=torch.tensor([0, DROPPED] * 4))
    assert (objective.rewarded(image, some) == 0).tolist() == [False, True] * 4
    if make is make_reward:
        loss, logs = objective.generator_loss(replace(batch, caption=torch.full((8,), DROPPED)))
        torch.testing.assert_close(loss, logs["generator/leash"])


@pytest.mark.parametrize("make", [make_reward, lambda: make_reward(generator=make_vae().autoencoder.decoder)])
def test_the_reward_rises_and_the_start_stays(make, batches):
    objective, probe = make(), batches[0].as_float()
    before = {key: value.clone() for key, value in objective.start.state_dict().items()}
    first = objective.generator_loss(probe)[1]["generator/reward"]
    run(objective, batches * 8)
    assert objective.generator_loss(probe)[1]["generator/reward"] > first + 0.05
    assert all(torch.equal(value, before[key]) for key, value in objective.start.state_dict().items())
    assert not objective.start.training and objective.generator.training


def test_a_frozen_part_of_the_generator_trains_too():
    from conftest_objectives import TextTransformer

    network = WordedGenerator(TextTransformer(12, 1, 2, 20, 5, 8), make_gan().generator)
    assert all(parameter.requires_grad for parameter in make_reward(generator=network).generator.parameters())


def test_the_policy_gradient_is_that_of_what_is_maximised(monkeypatch):
    """Over all pairs of draws, by their probability, its mean is the gradient of E[R] - kl KL(p || p0)."""
    objective = ready(make_reward_tokens(draws=2, weight=1.5, kl=0.3))
    prior, start = objective.generator.prior, objective.start
    batch = random_batch(1).as_float()
    few, codes = 3, torch.tensor([*product(range(3), repeat=2)])  # of 60 codes at 16 places

    def log_probability(network, rows, condition):
        """As if an image had two places and three codes."""
        seen = torch.zeros(len(rows), 16, dtype=torch.int64)
        seen[:, :2] = rows[:, :2]
        logits = network(seen, condition.rows(torch.zeros(len(rows), dtype=torch.int64)))[:, :2, :few]
        return logits.log_softmax(2).gather(2, rows[:, :2, None]).sum((1, 2))

    def image_of(rows, condition):
        return rows[:, :1].float().sub(rows[:, 1:2] ** 2).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)

    monkeypatch.setattr(objective.generator, "log_probability", log_probability)
    monkeypatch.setattr(objective.generator, "image", image_of)
    now = log_probability(prior, codes, batch.condition)
    with torch.no_grad():
        before = log_probability(start, codes, batch.condition)
    torch.testing.assert_close(now.exp().sum(), torch.tensor(1.0))
    reward = Brightness()(image_of(codes, None), batch.caption.expand(len(codes)))
    wanted = (now.exp() * (1.5 * reward - 0.3 * (now - before))).sum()
    exact = torch.autograd.grad(wanted, prior.parameters(), allow_unused=True)
    total, weights = 0.0, now.detach().exp()
    for i, j in product(range(len(codes)), repeat=2):
        monkeypatch.setattr(objective.generator, "choices", lambda *_, i=i, j=j: 2 * (codes[[i, j]],))
        total = total + weights[i] * weights[j] * objective.prior_loss(batch)[0]
    found = torch.autograd.grad(-total, prior.parameters(), allow_unused=True)
    pairs = [(a, b) for a, b in zip(exact, found, strict=True) if a is not None]
    assert sum(a.abs().sum() for a, _ in pairs) > 0.1
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_a_draw_is_compared_with_the_others_of_its_caption():
    advantage = make_reward_tokens(draws=3).advantage(torch.tensor([1.0, 2, 6, 10, 10, 10]))
    assert advantage.tolist() == [-3, -1.5, 4.5, 0, 0, 0]


def test_the_prior_draws_what_is_rewarded():
    objective = make_reward_tokens(kl=0.0, draws=8)
    batches = [replace(random_batch(start=8 * i), caption=torch.zeros(8, dtype=torch.int64)) for i in range(5)]
    *batches, probe = batches
    probe = probe.as_float()
    tokenizer = {key: value.clone() for key, value in objective.generator.tokenizer.state_dict().items()}
    first = ready(objective).prior_loss(probe)[1]
    run(objective, batches * 5)
    last = ready(objective).prior_loss(probe)[1]
    assert last["prior/reward"] > first["prior/reward"] + 0.02
    assert last["prior/kl"] > first["prior/kl"]
    assert all(torch.equal(value, tokenizer[key]) for key, value in objective.generator.tokenizer.state_dict().items())


def test_the_probability_is_that_of_what_is_drawn():
    """At a temperature, too: the share of draws that are a code is its probability."""
    objective = make_reward_tokens()
    objective.generator.temperature = 0.5
    condition = random_batch(1).as_float().condition.rows(torch.zeros(4000, dtype=torch.int64))
    latent = torch.randn(4000, objective.latent_channels, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        codes = objective.generator.draw(latent, [(1.0, condition)])
        logits = objective.generator.prior(codes[:1], condition.rows(slice(1)))[0, 0] / 0.5
        whole = objective.generator.log_probability(objective.generator.prior, codes[:2], condition.rows(slice(2)))
    share = codes[:, 0].bincount(minlength=60) / 4000
    assert (share - logits.softmax(0)).abs().max() < 0.03
    logits = objective.generator.prior(codes[:2], condition.rows(slice(2))) / 0.5
    expected = logits.log_softmax(2).gather(2, codes[:2, :, None]).sum((1, 2))
    torch.testing.assert_close(whole, expected)


class Four(nn.Module):
    """A tokenizer of four places and two codes."""

    num_codes, size = 2, Size(2, 2)

    def encode(self, image):
        raise NotImplementedError

    def decode(self, codes, condition):
        return codes[:, None].float().expand(-1, 3, -1, -1)


@pytest.fixture(scope="module")
def tiny():
    """A `Parallel` of two steps, and all 512 ways that they may take: choices, their probability, the codes they make.

    Of 4 places one is kept in the first step, whichever is the most confident, and the other three in the second.
    """
    torch.manual_seed(0)
    prior = partial(Prior, text_channels=TEXT, text=nn.Identity(), width=16, num_layers=1, num_heads=2)
    generator = Parallel(prior, Four(), temperature=0.7, num_steps=2, choice_temperature=1.5)
    with torch.no_grad():
        for parameter in generator.prior.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    condition = random_batch(1).as_float().condition
    ways = [*product(product(range(2), repeat=4), range(4), product(range(2), repeat=3))]
    none = torch.full((len(ways), 4), 2)
    first, kept = torch.tensor([way[0] for way in ways]), torch.tensor([way[1] for way in ways])
    confidence = F.one_hot(kept, 4).float()
    middle = torch.where(confidence > 0, first, 2)
    last = middle.clone()
    last[middle == 2] = torch.tensor([way[2] for way in ways]).flatten()
    sure = confidence.masked_fill(confidence > 0, torch.inf)
    steps = [Choice(none, first, confidence, middle), Choice(middle, last, sure, last)]
    rows = condition.rows(torch.zeros(len(ways), dtype=torch.int64))
    return generator, condition, last, generator.log_probability(generator.prior, steps, rows)


def test_the_ways_of_parallel_steps_have_the_probabilities_with_which_they_are_taken(tiny):
    generator, condition, codes, logarithms = tiny
    torch.testing.assert_close(logarithms.exp().sum(), torch.tensor(1.0))
    number = (codes * torch.tensor([8, 4, 2, 1])).sum(1)
    wanted = torch.zeros(16).index_add_(0, number, logarithms.detach().exp())
    latent = torch.randn(20_000, generator.latent_channels, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        drawn = generator.draw(latent, [(1.0, condition.rows(torch.zeros(len(latent), dtype=torch.int64)))])
    found = (drawn * torch.tensor([8, 4, 2, 1])).sum(1).bincount(minlength=16) / len(latent)
    assert wanted.max() > 3 / 16 and wanted.min() < 1 / 32, "far from all alike"
    assert (found - wanted).abs().max() < 0.012


def test_the_policy_gradient_of_parallel_steps_is_that_of_all_ways(tiny):
    """20,000 draws of one caption against the gradient of E[R] as a sum over all ways."""
    generator, condition, codes, logarithms = tiny
    parameters = [each for each in generator.prior.parameters() if each.requires_grad]
    exact = torch.autograd.grad((logarithms.exp() * codes.float().mean(1)).sum(), parameters, allow_unused=True)
    objective = PolicyGradient(generator, Brightness(), kl=0.0, draws=20_000, **loop_arguments(("prior",)))
    batch = replace(random_batch(1), caption=torch.zeros(1, dtype=torch.int64)).as_float()
    assert torch.equal(batch.condition.pooled, condition.pooled)
    loss, _ = ready(objective).prior_loss(batch)
    found = torch.autograd.grad(-loss, parameters, allow_unused=True)
    one, other = (torch.cat([each.flatten() for each in some if each is not None]) for some in (exact, found))
    assert one.norm() > 0.01
    assert (one - other).norm() < 0.15 * one.norm()


def test_a_maskgit_draws_what_is_rewarded():
    objective = make_reward_tokens(generator=make_maskgit().generator, kl=0.0, draws=8)
    batches = [replace(random_batch(start=8 * i), caption=torch.zeros(8, dtype=torch.int64)) for i in range(5)]
    *batches, probe = batches
    first = ready(objective).prior_loss(probe.as_float())[1]
    run(objective, batches * 5)
    last = ready(objective).prior_loss(probe.as_float())[1]
    assert last["prior/reward"] > first["prior/reward"] + 0.02
    assert last["prior/kl"] > first["prior/kl"]


def test_mistakes():
    with pytest.raises(UserError, match="experiment=reward_tokens"):
        make_reward(generator=make_dalle().generator)
    for make, changes in ((make_gan, {}), (make_dalle, {"top_k": 5}), (make_maskgit, {"top_k": 5})):
        generator = make().generator
        vars(generator).update(changes)
        with pytest.raises(UserError, match="a run of experiment=dalle or maskgit with"):
            make_reward_tokens(generator=generator)
    with pytest.raises(UserError, match="starts from a picture"):
        make_reward(generator=make_restoration().generator)
    for wrong in ({"weight": 0.0}, {"pixel": -1.0}):
        with pytest.raises(UserError, match="expected above 0"):
            make_reward(**wrong)
    with pytest.raises(UserError, match="draws=1"):
        make_reward_tokens(draws=1)
    with pytest.raises(UserError, match="init=null: name the run to fine-tune"):
        make_reward().begin()
