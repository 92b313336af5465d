"""Image tasks: the loss as it is written, sources of their positions, and no discriminator where none is asked for."""

import pytest
import torch
from conftest_objectives import features_of, make_gan, make_restoration, random_batch, run

from trainer.errors import UserError
from trainer.losses.reconstruction import l2
from trainer.sampling.sampler import NO_SOURCE, Sampler
from trainer.tasks.denoising import Denoising
from trainer.tasks.super_resolution import SuperResolution


def test_the_loss_is_distance_and_perceptual_and_adversarial_term():
    objective = make_restoration(
        pixel=3.0, adversarial=0.5, perceptual=lambda x, y: (x - y).abs().flatten(1).mean(1), perceptual_weight=2.0
    )
    seen = {}

    def keep(batch, loss=objective.generator_loss):
        value, logs = loss(batch)
        restored = objective.generated(batch, "generator")
        seen["expected"] = (
            3 * l2(restored, batch.image).mean()
            + 2 * (restored - batch.image).abs().mean()
            + 0.5 * objective.judged(restored, batch)[0]
        )
        seen["value"], seen["source"] = value, batch.condition.source
        return value, logs

    objective.phases["generator"] = keep
    run(objective, [random_batch(4)])
    torch.testing.assert_close(seen["value"], seen["expected"])
    image = random_batch(4).as_float().image
    torch.testing.assert_close(seen["source"], objective.generator.task(image, 0, torch.arange(4)))
    assert {"generator/distance", "generator/perceptual", "discriminator/loss"} <= objective.logs.keys()


def test_without_an_adversarial_term_there_is_no_discriminator_to_train():
    objective = make_restoration(adversarial=0.0)
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    run(objective, [random_batch(4, 4 * i) for i in range(3)])
    moved = {key for key, value in objective.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {key for key in before if key.startswith("generator.")}
    assert not any(key.startswith("discriminator") for key in objective.logs)


def test_it_learns_to_take_noise_away():
    objective = make_restoration(task=Denoising((40.0, 40.0)), adversarial=0.0)
    flat = [random_batch(8, 8 * i) for i in range(150)]
    for batch in flat:
        batch.image[:] = batch.image[:, :, :1, :1]
    run(objective, flat)
    assert objective.logs["generator/distance"] < 0.5 * (40 / 127.5) ** 2


@pytest.mark.parametrize("task", [None, SuperResolution()])
def test_one_seed_is_one_image_at_any_batch_size(task):
    objective = make_restoration(task=task).eval()
    captions = [f"picture {'I' * (i % 3)}" for i in range(20)]
    images = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sources = objective.generator.task(images, 0, torch.arange(20))
    sampler = Sampler(objective, features_of)
    whole = sampler(captions, range(20), sources)
    for part in (slice(0, 1), slice(3, 5), slice(2, 19)):
        some = Sampler(objective, features_of, batch_size=4)(captions[part], range(20)[part], sources[part])
        assert (some.int() - whole[part].int()).abs().max() <= 1
    with pytest.raises(UserError, match=NO_SOURCE[:40]):
        sampler(captions, range(20))
    condition = sampler.conditions(captions[:2])
    with pytest.raises(UserError, match=NO_SOURCE[:40]):
        sampler.draw(sampler.latents([0, 1]), condition)
    drawn = sampler.draw(sampler.latents([0, 1]), condition._replace(source=sources[:2]))
    assert (drawn.int() - whole[:2].int()).abs().max() <= 1
    assert sampler.exact in (True, False)


def test_a_generator_of_nothing_is_refused():
    gan = make_gan()
    with pytest.raises(UserError, match=r"generator@objective.generator=unet"):
        make_restoration(generator=gan.generator)
    with pytest.raises(UserError, match="pixel or adversarial above 0"):
        make_restoration(pixel=0.0, adversarial=0.0)
