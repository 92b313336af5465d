"""Fine-tuning by a reward: its loss as written, a start that stays, and a policy gradient that is the exact one."""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from conftest_objectives import (
    LATENT,
    Brightness,
    See,
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

from trainer.errors import UserError
from trainer.losses.perceptual import Perceptual
from trainer.networks.worded import WordedGenerator
from trainer.objectives.guidance import DROPPED
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

    monkeypatch.setattr(objective, "log_probability", log_probability)
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
        monkeypatch.setattr(objective.generator, "draw", lambda *_, i=i, j=j: codes[[i, j]])
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
        whole = objective.log_probability(objective.generator.prior, codes[:2], condition.rows(slice(2)))
    share = codes[:, 0].bincount(minlength=60) / 4000
    assert (share - logits.softmax(0)).abs().max() < 0.03
    logits = objective.generator.prior(codes[:2], condition.rows(slice(2))) / 0.5
    expected = logits.log_softmax(2).gather(2, codes[:2, :, None]).sum((1, 2))
    torch.testing.assert_close(whole, expected)


def test_mistakes():
    with pytest.raises(UserError, match="experiment=reward_tokens"):
        make_reward(generator=make_dalle().generator)
    for make in (make_gan, make_maskgit):
        with pytest.raises(UserError, match="run of experiment=dalle"):
            make_reward_tokens(generator=make().generator)
    with pytest.raises(UserError, match="starts from a picture"):
        make_reward(generator=make_restoration().generator)
    for wrong in ({"weight": 0.0}, {"pixel": -1.0}):
        with pytest.raises(UserError, match="expected above 0"):
            make_reward(**wrong)
    with pytest.raises(UserError, match="draws=1"):
        make_reward_tokens(draws=1)
    with pytest.raises(UserError, match="init=null: name the run to fine-tune"):
        make_reward().begin()
