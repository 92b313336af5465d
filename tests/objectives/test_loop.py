"""The phase loop: who moves, in which order, by how much, and what it counts."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest_objectives import make_gan, make_vae, random_batch, run

from trainer.errors import UserError
from trainer.objectives import schedules


def weights(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def moved(before, after):
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_a_phase_moves_its_network_alone(batches):
    for player in ("generator", "discriminator"):
        gan = make_gan(matching=1.0)
        gan.phases = {player: gan.phases[player]}
        gan.make_optimizer = {player: gan.make_optimizer[player]}
        before = weights(gan)
        run(gan, batches)
        assert moved(before, weights(gan)) == {player}


def test_the_other_player_gets_no_gradient(batches):
    gan, seen = make_gan(matching=1.0), []

    def watch(name, loss):
        def phase(batch):
            others = [p for n, p in gan.named_parameters() if not n.startswith(name)]
            assert not any(p.requires_grad for p in others)
            value, logs = loss(batch)
            seen.append(name)
            return value, logs

        return phase

    gan.phases = {name: watch(name, loss) for name, loss in gan.phases.items()}
    run(gan, batches[:2])
    assert seen == ["discriminator", "generator"] * 2
    assert all(p.requires_grad for p in gan.parameters())


def test_a_frozen_part_stays_frozen(batches):
    gan = make_gan()
    gan.discriminator.head.unconditional.requires_grad_(False)
    before = gan.discriminator.head.unconditional.weight.clone()
    run(gan, batches)
    assert not gan.discriminator.head.unconditional.weight.requires_grad
    assert torch.equal(gan.discriminator.head.unconditional.weight, before)


def test_counts_and_logs(batches):
    gan = make_gan(matching=1.0, r1=1.0, clip=1.0)
    trainer = run(gan, batches)
    assert trainer.global_step == len(batches)  # once a batch, though two optimisers step
    assert gan.images_seen == 8 * len(batches)
    expected = {"generator/loss", "generator/mismatch", "generator/gradient_norm", "discriminator/loss"}
    expected |= {"discriminator/mismatch", "discriminator/r1", "discriminator/real_logits"}
    assert expected <= set(gan.logs)
    assert not any(value.requires_grad for value in gan.logs.values())


@pytest.mark.parametrize(
    ("make", "clip"), [(partial(make_gan, matching=1.0, r1=0.5, r2=0.5), 0.05), (make_vae, None)]
)
def test_accumulation_equals_the_large_batch(make, clip, batches):
    sgd = partial(torch.optim.SGD, lr=0.1)
    whole, split = make(clip=clip, optimizer=sgd), make(clip=clip, optimizer=sgd, accumulate=4)
    run(whole, batches)
    run(split, batches)
    for (name, a), (_, b) in zip(whole.named_parameters(), split.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
    for key in whole.logs:
        torch.testing.assert_close(whole.logs[key], split.logs[key], atol=1e-3, rtol=1e-3)


def test_accumulation_that_does_not_divide_is_refused(batches):
    with pytest.raises(UserError, match=r"data.batch_size=8, objective.accumulate=3 on 1 ranks: .* multiple of 3,"):
        run(make_gan(accumulate=3), batches)


def test_neighbours_that_swap_captions_stay_together():
    """7 images a rank: the last would have no other, which it has in one process."""

    def split(objective, size, ranks):
        objective._trainer = SimpleNamespace(world_size=ranks)
        return [len(part) for part in objective.split(random_batch(size))]

    with pytest.raises(UserError, match=r"data.batch_size=14, .* on 2 ranks: expected a multiple of 4, .* groups of 2"):
        split(make_gan(matching=1.0), 7, 2)
    with pytest.raises(UserError, match=r"expected a multiple of 4"):
        split(make_gan(matching=1.0, accumulate=2), 6, 1)
    assert split(make_gan(matching=1.0), 7, 1) == [7]
    assert split(make_gan(), 7, 2) == split(make_vae(), 7, 2) == [7]
    assert split(make_vae(accumulate=2), 6, 2) == [3, 3]


def test_clip_bounds_the_step(batches):
    gan = make_gan(clip=1e-3, optimizer=partial(torch.optim.SGD, lr=1.0))
    before = weights(gan)
    run(gan, batches[:1])
    for player in ("generator", "discriminator"):
        step = sum((value - before[n]).square().sum() for n, value in weights(gan).items() if n.startswith(player))
        assert step.sqrt() == pytest.approx(1e-3, rel=1e-3)


def test_schedule_is_in_images(batches):
    schedule = partial(schedules.linear, kimg=0.032, start=0.5, final=0.0)
    gan, rates = make_gan(schedule=schedule), []
    step = torch.optim.Adam.step

    def spy(self, closure=None):
        rates.append(self.param_groups[0]["lr"])
        return step(self, closure)

    torch.optim.Adam.step = spy
    try:
        run(gan, batches)
    finally:
        torch.optim.Adam.step = step
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005])


def test_ema_weights_swap_in_and_out():
    vae = make_vae()
    own = weights(vae)
    vae.ema = {name: torch.full_like(value, 0.5) for name, value in own.items()}
    with vae.ema_weights():
        assert all(value.eq(0.5).all() for value in vae.parameters())
    assert all(torch.equal(value, own[name]) for name, value in vae.named_parameters())
    assert all(value.eq(0.5).all() for value in vae.ema.values())


def test_noise_hangs_on_the_position():
    gan, batch = make_gan(), random_batch()
    latent = gan.normal("generator", batch, 6)
    torch.testing.assert_close(gan.normal("generator", batch[4:], 6), latent[4:], rtol=0, atol=0)
    assert not torch.equal(gan.normal("discriminator", batch, 6), latent)
    assert len(latent.unique(dim=0)) == 8


def test_optimizers_must_match_the_phases(batches):
    gan = make_gan()
    gan.make_optimizer["critic"] = gan.make_optimizer.pop("generator")
    with pytest.raises(UserError, match="critic"):
        run(gan, batches)


def test_another_schedule_on_resume_is_told(capsys, tmp_path):
    """A longer budget lifts the learning rate that had fallen to its end by a factor of 20, and more."""

    def trained(kimg, ckpt_path=None, **options):
        vae = make_vae(schedule=partial(schedules.linear, kimg=kimg, start=0.0, final=0.05))
        vae.config = {"kimg": kimg, "data": {"batch_size": 8}}
        start = 32 if ckpt_path else 0
        batches = [random_batch(start=start + 8 * i) for i in range(4)]
        return run(vae, batches, ckpt_path=ckpt_path, **options)

    trained(0.032).save_checkpoint(tmp_path / "end.ckpt")
    trained(0.032, tmp_path / "end.ckpt", max_epochs=2)
    assert "learning rate" not in capsys.readouterr().out
    trained(0.064, tmp_path / "end.ckpt", max_epochs=2)
    told = capsys.readouterr().out
    assert "the learning rate goes from 0.288 to 0.525 of its first value: objective.schedule now is that of" in told
    assert "kimg=0.064, it was that of kimg=0.032" in told
