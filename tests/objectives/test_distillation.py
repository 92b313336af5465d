"""A student learns from what its teacher draws: the loss, its gradients, and that no image of the data is looked at."""

from types import SimpleNamespace

import pytest
import torch
from conftest_objectives import LATENT, RESOLUTION, SIZES, make_attngan, make_gan, make_vae, random_batch, run
from torch import nn

from trainer.batch import Condition
from trainer.compression.vocabulary import Chosen
from trainer.errors import UserError
from trainer.losses.distillation import feature_distance, pixel_distance
from trainer.networks import dcgan
from trainer.networks.diffaugment import DiffAugment
from trainer.networks.worded import WordedGenerator
from trainer.objectives.distillation import Distillation
from trainer.runs import trained
from trainer.text.scratch import TextTransformer

CONFIG = {"data": {"resolution": RESOLUTION}, "text": {"encoder": {"name": "none", "cache_dir": "a"}}}


class Slow(nn.Module):
    """A teacher of many steps: each moves the image a little towards what its generator says of it."""

    draws_with = "generator"
    latent_channels = LATENT
    config = CONFIG

    def __init__(self):
        super().__init__()
        self.generator = dcgan.Generator(latent_channels=LATENT, text=nn.Identity(), style_channels=16, **SIZES)

    def sample(self, latent, condition):
        image = torch.zeros(len(latent), 3, RESOLUTION, RESOLUTION)
        for step in range(4):
            image = image + (self.generator(latent * (1 + step / 4), condition) - image) / 2
        return image


def taught(monkeypatch, teacher, **changes):
    """A distillation whose teacher is given instead of read from a run."""
    teacher.config = CONFIG
    teacher.eval().requires_grad_(False)
    monkeypatch.setattr(trained.checkpoint, "newest", lambda path: path)
    monkeypatch.setattr(trained.checkpoint, "load", lambda path, device: teacher)
    gan = make_gan()
    options = {key: getattr(gan, key) for key in ("generator", "discriminator", "loss", "schedule", "seed")}
    objective = Distillation("somewhere", **options, optimizer=gan.make_optimizer, **changes)
    objective.config = CONFIG
    return objective


def frozen(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def ready(objective):
    objective.setup("fit")
    objective._trainer = SimpleNamespace(global_step=1, world_size=1, strategy=None)
    return objective


def test_loss_is_the_sum_of_its_terms(monkeypatch):
    torch.manual_seed(3)
    objective = ready(taught(monkeypatch, make_gan(), pixel=2.0, feature=0.5, adversarial=0.25))
    batch = random_batch().as_float()
    latent = objective.normal("distillation", batch, LATENT)
    wanted = objective.teacher.sample(latent, batch.condition)
    nn.init.normal_(objective.generator.image.weight)
    drawn = objective.generator(latent, batch.condition)
    trunk = objective.teacher.objective.discriminator.features
    seen, maps = [], [wanted, drawn]
    for image in maps:
        x, found = trunk.image(image), []
        for down in trunk.downs:
            x = down(torch.nn.functional.leaky_relu(x, 0.2))
            found.append(x)
        seen.append(found)
    pixel = (drawn - wanted).abs().mean()
    pairs = list(zip(*seen, strict=True))
    feature = sum(((f - g).square().sum((1, 2, 3)) / g.square().sum((1, 2, 3))).mean() for g, f in pairs) / len(pairs)
    adversarial = nn.functional.softplus(-objective.discriminator(drawn, batch.condition)).mean()
    batch.image = wanted
    loss, logs = objective.generator_loss(batch)
    torch.testing.assert_close(loss, 2 * pixel + 0.5 * feature + 0.25 * adversarial)
    torch.testing.assert_close(logs["generator/pixel"], pixel)
    torch.testing.assert_close(logs["generator/feature"], feature)


def test_features_are_those_of_all_trunks(monkeypatch):
    """As of experiment=cgan, which has a discriminator for each size."""
    teacher = make_gan()
    teacher.discriminator = make_attngan().discriminator
    objective = ready(taught(monkeypatch, teacher, feature=1.0))
    image = torch.randn(2, 3, 32, 32).requires_grad_()
    maps = objective.teacher.features(image)
    found, (small, large) = [], teacher.discriminator.trunks.values()
    for trunk, x in ((small, torch.nn.functional.avg_pool2d(image, 2)), (large, image)):
        x = trunk.image(x)
        for down in trunk.downs:
            x = down(torch.nn.functional.leaky_relu(x, 0.2))
            found.append(x)
    assert len(maps) == len(found) == 5
    for one, other in zip(sorted(maps, key=sizes), sorted(found, key=sizes), strict=True):
        torch.testing.assert_close(one, other)
    (slope,) = torch.autograd.grad(sum(each.square().sum() for each in maps), image)
    assert slope.abs().sum() > 0


def sizes(maps):
    return (*maps.shape[1:], float(maps.sum()))


def test_a_student_of_the_same_weights_has_no_distance(monkeypatch):
    teacher = make_gan()
    objective = ready(taught(monkeypatch, teacher, adversarial=0.0))
    objective.generator.load_state_dict(teacher.generator.state_dict())
    batch = random_batch().as_float()
    latent = objective.normal("distillation", batch, LATENT)
    batch.image = objective.teacher.sample(latent, batch.condition)
    assert objective.generator_loss(batch)[0] == 0


@pytest.mark.parametrize("make", [make_gan, *(pytest.param(each, marks=pytest.mark.slow) for each in (make_vae, Slow))])
def test_it_comes_nearer_to_any_teacher_and_leaves_it_as_it_is(monkeypatch, batches, make):
    teacher = make()
    torch.manual_seed(5)
    for parameter in teacher.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    objective = taught(monkeypatch, teacher, feature=0.0 if make is Slow else 1.0, adversarial=0.01)
    before = frozen(teacher)
    probe = random_batch(start=100).as_float()
    latent = objective.normal("distillation", probe, LATENT)

    def distance():
        drawn = objective.generator(latent, probe.condition)
        return pixel_distance(drawn, teacher.sample(latent, probe.condition)).mean()

    first = distance()
    run(objective, batches * 6)
    assert distance() < 0.8 * first
    after = frozen(teacher)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any("teacher" in name for name in objective.state_dict())


def test_images_of_the_data_are_not_looked_at(monkeypatch, batches):
    weights = []
    for paint in (0, 255):
        for batch in batches:
            batch.image = torch.full_like(batch.image, paint)
        torch.manual_seed(5)
        objective = taught(monkeypatch, make_gan())
        run(objective, batches)
        weights.append(objective.generator.image.weight)
    assert torch.equal(*weights)


def test_or_the_discriminator_learns_the_images_of_the_data(monkeypatch, batches):
    """As a plain GAN does from there on, with the distance to the teacher's images where that has a weight."""
    plain, weights = make_gan(), []
    torch.manual_seed(5)
    probe = random_batch().as_float()
    for teacher_weight in (0.0, 1.0):
        weights_of = {"pixel": teacher_weight, "feature": 0.0, "adversarial": 1.0}
        objective = ready(taught(monkeypatch, make_gan(), real="data", **weights_of))
        monkeypatch.setattr(plain, "generated", objective.generated)
        plain.discriminator = objective.discriminator
        plain._trainer = objective._trainer
        torch.testing.assert_close(objective.discriminator_loss(probe)[0], plain.discriminator_loss(probe)[0])
        loss, logs = objective.generator_loss(probe)
        drawn = objective.teacher.sample(objective.normal("distillation", probe, LATENT), probe.condition)
        distance = pixel_distance(objective.generated(probe, "generator"), drawn).mean()
        torch.testing.assert_close(loss, plain.generator_loss(probe)[0] + teacher_weight * distance)
        assert ("generator/pixel" in logs) is bool(teacher_weight)
    for paint in (0, 255):
        for batch in batches:
            batch.image = torch.full_like(batch.image, paint)
        torch.manual_seed(5)
        objective = taught(monkeypatch, make_gan(), pixel=0.0, feature=0.0, adversarial=1.0, real="data")
        run(objective, batches)
        weights.append(objective.generator.image.weight)
    assert not torch.equal(*weights)


def test_images_of_the_data_are_augmented_as_for_the_teacher(monkeypatch):
    teacher = make_gan()
    teacher.augment = DiffAugment()
    assert ready(taught(monkeypatch, teacher, real="data")).augment is teacher.augment
    assert ready(taught(monkeypatch, teacher)).augment is None  # the teacher's own images have no end


def test_the_discriminator_begins_as_the_teachers(monkeypatch):
    teacher = make_gan()
    nn.init.normal_(teacher.discriminator.head.unconditional.weight)
    objective = ready(taught(monkeypatch, teacher))
    one, other = (each.discriminator.head.unconditional.weight for each in (objective, teacher))
    assert torch.equal(one, other)


def test_it_reads_captions_as_a_teacher_with_a_text_encoder_of_its_own(monkeypatch):
    def transformer(vocabulary=12):
        return TextTransformer(SIZES["text_channels"], 1, 2, vocabulary, 4, channels=8)

    inside = transformer()
    teacher = Slow()
    teacher.generator = WordedGenerator(inside, teacher.generator)
    inside.words = Chosen(12, 3, 8).take(inside.words.weight, torch.tensor([2, 5, 7]))  # as `vocabulary` leaves it
    objective = taught(monkeypatch, teacher, feature=0)
    objective.generator.text, objective.discriminator.text = transformer(), transformer()
    ids = torch.tensor([[2, 5, 7, 0], [1, 3, 7, 0]])
    condition = Condition(ids, ids > 0, torch.empty(2, 0))
    ready(objective)
    expected = inside(condition)
    for network in (objective.generator, objective.discriminator):
        read = network.text(condition)
        assert torch.equal(read.tokens, expected.tokens)
        assert torch.equal(read.pooled, expected.pooled)
        assert not any(each.requires_grad for each in network.text.parameters())
        assert all(each.requires_grad for name, each in network.named_parameters() if not name.startswith("text."))
    other = taught(monkeypatch, teacher, feature=0)
    other.generator.text = transformer(13)
    before = frozen(other.generator)
    ready(other)
    assert all(torch.equal(before[key], each) for key, each in other.generator.state_dict().items())
    assert all(each.requires_grad for each in other.generator.parameters())


def test_without_the_adversarial_term_no_discriminator_trains(monkeypatch, batches):
    objective = taught(monkeypatch, make_gan(), adversarial=0.0, lecam=0.1)  # which has nothing to move
    before = frozen(objective.discriminator)
    run(objective, batches)
    assert list(objective.phases) == ["generator"]
    assert all(torch.equal(value, before[name]) for name, value in objective.discriminator.state_dict().items())


def test_distances():
    one, other = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    other[1] = 3
    assert pixel_distance(one, other).tolist() == [1, 3]
    assert feature_distance([one, other], [other, other]).tolist() == [0.5, 0.5]  # at zero it is 1 away, at any scale


def test_mistakes(monkeypatch):
    with pytest.raises(UserError, match="teacher=null: name the run"):
        gan = make_gan()
        parts = {"generator": gan.generator, "discriminator": gan.discriminator, "loss": gan.loss}
        Distillation(None, **parts, optimizer=gan.make_optimizer, schedule=gan.schedule, seed=0)
    with pytest.raises(UserError, match="expected all from 0"):
        taught(monkeypatch, make_gan(), pixel=-1.0)
    with pytest.raises(UserError, match=r"objective\.real=images: expected teacher or data"):
        taught(monkeypatch, make_gan(), real="images")
    with pytest.raises(UserError, match=r"objective\.feature=0"):
        ready(taught(monkeypatch, Slow()))
    objective = taught(monkeypatch, make_gan())
    objective.latent_channels = LATENT + 1
    with pytest.raises(UserError, match=f"latent_channels={LATENT + 1}"):
        objective.setup("fit")
    objective = taught(monkeypatch, make_gan())
    objective.config = CONFIG | {"data": {"resolution": 32}}
    with pytest.raises(UserError, match=r"has data\.resolution=16, and this run 32"):
        objective.setup("fit")
    objective = taught(monkeypatch, make_gan())
    objective.config = CONFIG | {"text": CONFIG["text"] | {"caption_dropout": 0.1}}
    with pytest.raises(UserError, match=r"text\.caption_dropout=0\.1: the teacher draws nothing of an empty caption"):
        objective.setup("fit")
