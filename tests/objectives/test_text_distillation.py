"""A small text encoder learns from a frozen one: the loss, its gradients, and the captions that it sees."""

from types import SimpleNamespace

import pytest
import torch
from conftest_objectives import Known, ids_of, make_gan, make_text_distillation, random_batch, run
from torch import nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks import worded
from trainer.networks.worded import WordedGenerator
from trainer.objectives.text_distillation import MOST_WORDS, made_captions, principal


def ready(**changes):
    objective = make_text_distillation(**changes)
    objective.on_fit_start()
    return objective


def relative(found, wanted):
    return ((found - wanted) ** 2).flatten(1).sum(1) / (wanted**2).flatten(1).sum(1)


def test_loss_is_the_sum_of_its_terms():
    objective = ready(pixel=0.5, others=0.0)
    nn.init.normal_(objective.generator.generator.image.weight)  # it begins with nothing but grey
    batch = random_batch().as_float()
    wanted = objective.features[batch.caption.numpy()]
    longest = wanted.mask.sum(1).max()
    ids = ids_of(batch).condition.tokens[:, :longest]
    found = objective.generator.text(Condition(ids, wanted.mask[:, :longest], wanted.pooled[:, :0]))
    latent = objective.normal("text distillation", batch, objective.latent_channels)
    cut = Condition(wanted.tokens[:, :longest], wanted.mask[:, :longest], wanted.pooled)
    images = [objective.generator.generator(latent, each) for each in (found, cut)]
    expected = relative(found.tokens, cut.tokens).mean() + relative(found.pooled, cut.pooled).mean()
    pixel = (images[0] - images[1]).abs().mean()
    loss, logs = objective.text_loss(objective.on_host(batch))
    assert pixel > 1e-3
    torch.testing.assert_close(loss, expected + 0.5 * pixel)
    torch.testing.assert_close(logs["text/pixel"], pixel)


def test_the_encoder_alone_learns_and_all_of_it(batches):
    objective = make_text_distillation(pixel=0.5)
    nn.init.normal_(objective.generator.generator.image.weight)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    run(objective, batches)
    moved = {name for name, value in objective.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {f"generator.text.{name}" for name, _ in objective.generator.text.named_parameters()}


def test_it_comes_to_say_what_the_frozen_one_says():
    objective = make_text_distillation(others=0.0)
    losses = []
    loss = objective.phases["text"]
    objective.phases["text"] = lambda batch: (losses.append(loss(batch)) or losses[-1])
    run(objective, [random_batch()] * 200)
    assert losses[-1][0] < losses[0][0] / 4


def test_a_share_of_the_captions_is_of_others():
    objective = ready(others=0.4)
    batch = ids_of(random_batch(400).as_float())
    batch.caption = batch.caption % 30
    ids, wanted = objective.lesson(batch)
    own, others = Known(40)[batch.caption.numpy()], Known(40)[range(30, 39)]
    longest = wanted.mask.shape[1]
    is_own = (wanted.pooled == own.pooled).all(1)
    assert 0.3 < 1 - is_own.float().mean() < 0.5
    is_other = (wanted.pooled[:, None] == others.pooled).all(2)
    assert torch.equal(is_other.any(1), ~is_own)
    assert is_other.any(0).all(), "each of the others has its turn"
    assert torch.equal(ids.tokens[is_own], batch.condition.tokens[is_own][:, :longest])
    number = is_other.long().argmax(1)[~is_own]
    assert torch.equal(ids.tokens[~is_own], objective.ids[number.numpy()].tokens[:, :longest])
    assert torch.equal(ids.mask, wanted.mask)


def test_a_dropped_caption_is_the_empty_one():
    objective = ready(others=0.0)
    batch = ids_of(random_batch(2).as_float())
    batch.caption = torch.tensor([3, -1])
    _, wanted = objective.lesson(batch)
    assert torch.equal(wanted.pooled, torch.cat([Known(40)[[3]].pooled, Known(40)[[-1]].pooled]))


def test_made_captions_are_of_one_word_to_the_most_and_the_same_each_time():
    made = made_captions(["red", "blue", "cat"], 500, seed=1)
    assert made == made_captions(["red", "blue", "cat"], 500, seed=1)
    assert made != made_captions(["red", "blue", "cat"], 500, seed=2)
    assert {len(each.split()) for each in made} == {*range(1, MOST_WORDS + 1)}
    assert {word for each in made for word in each.split()} == {"red", "blue", "cat"}


def test_principal_components_keep_what_tells_rows_apart():
    table = torch.randn(50, 3) @ torch.randn(3, 12) + 5
    found = principal(table, 3)
    assert found.std().item() == pytest.approx(1, abs=1e-5)
    distances, kept = (torch.cdist(each, each) for each in (table, found))
    torch.testing.assert_close(kept / kept.max(), distances / distances.max(), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"others": 1.0}, "others=1.0"),
        ({"pixel": -1.0}, "pixel=-1.0"),
        ({"made": 0}, "made=0"),
        ({"corpus": "nowhere.txt"}, "corpus=nowhere.txt: expected a text file with a caption a line"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make_text_distillation(**changes)


def test_lines_of_a_corpus_are_the_others(tmp_path):
    file = tmp_path / "lines.txt"
    file.write_text("a cat\n\n a dog \na cat\n")
    assert make_text_distillation(corpus=str(file)).other_captions(SimpleNamespace()) == ["a cat", "a dog"]
    file.write_text("\n \n")
    with pytest.raises(UserError, match="found none"):
        make_text_distillation(corpus=str(file)).other_captions(SimpleNamespace())


class Steps(nn.Module):
    """Guided in its steps, and truncated."""

    latent_channels, truncation, chooses = 4, 1.0, True

    def guided(self, latent, condition, unconditional, scale):
        return condition.pooled.sum() * scale + unconditional.pooled.sum()


def test_what_a_generator_can_it_can_behind_words():
    generator = make_gan().generator
    text = make_text_distillation().generator.text
    one, other = (ids_of(random_batch(3, start)).condition for start in (0, 3))
    latent = torch.randn(3, generator.latent_channels)
    plain = WordedGenerator(text, generator)
    assert not hasattr(plain, "truncation")
    assert not plain.chooses
    nn.init.normal_(generator.image.weight)
    images = [plain(latent, each) for each in (other, one)]
    expected = (images[0] + 3 * (images[1] - images[0])).clamp(-1, 1)
    torch.testing.assert_close(plain.guided(latent, one, other, 3.0), expected)
    stepwise = worded.WordedGenerator(text, Steps())
    assert stepwise.chooses
    stepwise.truncation = 0.5
    assert stepwise.generator.truncation == stepwise.truncation == 0.5
    wanted = text(one).pooled.sum() * 3 + text(other).pooled.sum()
    torch.testing.assert_close(stepwise.guided(latent, one, other, 3.0), wanted)
