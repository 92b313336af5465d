"""The dual encoder's loss, its negatives, and a frozen matcher that teaches a generator."""

import hashlib
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest_objectives import RESOLUTION, make_gan, make_matching, random_batch, run
from torch import nn

from trainer.errors import UserError
from trainer.losses import matching
from trainer.runs.trained import Matcher
from trainer.strategies.single import Single

CONFIG = {"name": "small", "data": {"resolution": RESOLUTION}, "text": {"encoder": {"name": "none", "cache_dir": "a"}}}


def of_one_process(objective):
    objective._trainer = SimpleNamespace(strategy=Single("cpu"), world_size=1)
    return objective


def test_loss(batches):
    objective, batch = of_one_process(make_matching()), random_batch().as_float()
    objective.words = 0.5
    batch.caption[3] = batch.caption[5]
    image, regions = objective.matcher.image(batch.image)
    text, words = objective.matcher.text(batch.condition)
    expected = 0.0
    scored = matching.global_scores(image, text), matching.word_scores(regions, words, batch.condition.mask)
    for weight, scores in zip((1.0, 0.5), scored, strict=True):
        forward = matching.caption_given_image(scores, batch.caption).mean()
        expected += weight * (forward + matching.image_given_caption(scores, batch.caption).mean())
    loss, logs = objective.matcher_loss(batch)
    torch.testing.assert_close(loss, expected)
    best = scored[0].argmax(1)
    right = batch.caption[best] == batch.caption
    torch.testing.assert_close(logs["matcher/accuracy"], right.float().mean())


def test_it_learns_pairs_and_ranks_them(batches):
    objective = make_matching(optimizer=partial(torch.optim.Adam, lr=2e-3))
    run(objective, batches[:1] * 60)
    assert objective.logs["matcher/accuracy"] == 1
    similarity = matching.global_scores(
        objective.matcher.image(batches[0].as_float().image)[0], objective.matcher.text(batches[0].condition)[0]
    )
    assert similarity.argmax(1).tolist() == list(range(8))


def test_micro_batches_are_refused():
    with pytest.raises(UserError, match="accumulate=2"):
        make_matching(accumulate=2)


def test_it_draws_nothing(batches):
    objective = make_matching()
    objective.config = {"name": "matching"}
    with pytest.raises(UserError, match="a run of matching draws no images"):
        objective.sample(torch.zeros(8, 0), batches[0].condition)


@pytest.fixture
def matcher_run(monkeypatch, tmp_path):
    """Path of a run whose checkpoint is a matcher; without Hydra, which the tests of experiments go through."""
    trained = make_matching().eval().requires_grad_(False)
    trained.config = CONFIG
    monkeypatch.setattr("trainer.runs.checkpoint.newest", Path)
    monkeypatch.setattr("trainer.runs.checkpoint.load", lambda path, device: trained)
    (tmp_path / "matching.ckpt").write_bytes(b"weights")
    return str(tmp_path / "matching.ckpt")


def make_gan_of(matcher_run, **changes):
    gan = make_gan(matcher=matcher_run, matcher_weight=0.5, **changes)
    gan.config = CONFIG
    return gan


def test_a_matcher_teaches_the_generator_and_learns_nothing(matcher_run, batches):
    gan = make_gan_of(matcher_run)
    before = {key: value.clone() for key, value in Matcher(matcher_run).objective.state_dict().items()}
    keys = set(gan.state_dict())
    trainer = run(gan, batches[:2])
    after = gan.judge.objective
    assert all(torch.equal(value, before[key]) for key, value in after.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in after.parameters())
    assert set(gan.state_dict()) == keys
    assert not [key for key in trainer._checkpoint_connector.dump_checkpoint()["state_dict"] if "matcher" in key]


def test_the_term_is_the_loss_of_generated_images(matcher_run):
    gan, plain, batch = of_one_process(make_gan_of(matcher_run)), make_gan(), random_batch().as_float()
    gan.on_fit_start()
    value, logs = gan.generator_loss(batch)
    generated = gan.generator(gan.normal("generator", batch, gan.latent_channels), batch.condition)
    sentence, word, _ = gan.judge.objective.contrast(generated, batch.condition, batch.caption, lambda rows: rows)
    torch.testing.assert_close(logs["generator/matcher"], (sentence + word).mean())
    torch.testing.assert_close(value, plain.generator_loss(batch)[0] + 0.5 * (sentence + word).mean())
    (gradient,) = torch.autograd.grad(logs["generator/matcher"], gan.generator.image.weight)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    "group, changes", [("data", {"resolution": 64}), ("text", {"encoder": {"name": "clip", "cache_dir": "a"}})]
)
def test_a_matcher_of_other_data_is_refused(group, changes, matcher_run):
    gan = make_gan_of(matcher_run)
    gan.config = CONFIG | {group: changes}
    with pytest.raises(UserError, match=f"matcher={matcher_run} has {group}.*neither compared nor taught"):
        gan.on_fit_start()


def test_a_judge_is_known_by_its_file(matcher_run):
    judge = Matcher(matcher_run)
    assert (judge.name, judge.sha256) == ("small", hashlib.sha256(b"weights").hexdigest())
    images = random_batch().image
    expected = nn.functional.normalize(judge.objective.matcher.image(random_batch().as_float().image)[0])
    torch.testing.assert_close(judge.images(images), expected)
    judge.encoder = lambda captions: random_batch(len(captions)).condition
    torch.testing.assert_close(judge.captions(["a"] * 8).norm(dim=1), torch.ones(8))
    with pytest.raises(UserError, match=r"matcher=.* has data.resolution=16, and this run 8"):
        judge.images(images[..., :8, :8])


def test_a_cache_elsewhere_is_no_difference(matcher_run):
    Matcher(matcher_run).require(CONFIG | {"text": {"encoder": {"name": "none", "cache_dir": "b"}}})


@pytest.mark.parametrize("given", [{"matcher": "run"}, {"matcher_weight": 1.0}])
def test_a_matcher_needs_its_weight(given):
    with pytest.raises(UserError, match="matcher_weight"):
        make_gan(**given)


def test_a_matcher_needs_whole_batches():
    with pytest.raises(UserError, match="accumulate=2"):
        make_gan(matcher="run", matcher_weight=1.0, accumulate=2)


def test_a_run_without_matcher_is_refused(monkeypatch):
    monkeypatch.setattr("trainer.runs.checkpoint.newest", Path)
    monkeypatch.setattr("trainer.runs.checkpoint.load", lambda path, device: make_gan())
    with pytest.raises(UserError, match="outputs/cgan has no matcher"):
        Matcher("outputs/cgan")
