"""Priors of codes: their losses as written, a tokenizer that stays as it is, and one seed as one image."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest_objectives import features_of, make_dalle, make_latent_gan, make_maskgit, random_batch, run

from trainer import noise
from trainer.batch import Condition
from trainer.errors import UserError
from trainer.exports import onnx
from trainer.exports.program import FromFeatures, exported, inputs
from trainer.objectives.latents import LatentGAN
from trainer.sampling.sampler import Sampler

MAKE = {"dalle": make_dalle, "maskgit": make_maskgit}


def test_dalle_is_the_likelihood_of_the_codes():
    objective, batch = make_dalle(), random_batch().as_float()
    codes = objective.generator.tokenizer.encode(batch.image).flatten(1)
    loss, logs = objective.prior_loss(batch)
    logits = objective.generator.prior(codes, batch.condition)
    likelihood = logits.log_softmax(2).gather(2, codes[..., None]).squeeze(2)
    torch.testing.assert_close(loss, -likelihood.sum(1).mean() / 16)
    torch.testing.assert_close(logs["prior/accuracy"], (logits.argmax(2) == codes).float().mean())


def test_maskgit_is_the_cross_entropy_of_hidden_codes(monkeypatch):
    objective, batch = make_maskgit(), random_batch().as_float()
    prior, codes = objective.generator.prior, objective.generator.tokenizer.encode(batch.image).flatten(1)
    seen, forward = [], prior.forward
    monkeypatch.setattr(prior, "forward", lambda given, condition: seen.append(given) or forward(given, condition))
    loss, _ = objective.prior_loss(batch)
    hidden = seen[0] == prior.num_codes
    assert torch.equal(seen[0][~hidden], codes[~hidden])
    ratio = objective.uniform("prior", batch, 17)[:, 0]
    assert hidden.sum(1).tolist() == [max(1, math.ceil(math.cos(math.pi / 2 * r) * 16)) for r in ratio.double()]
    logits = forward(seen[0], batch.condition)
    nats = -logits.log_softmax(2).gather(2, codes[..., None]).squeeze(2)
    expected = torch.stack([each[mask].mean() for each, mask in zip(nats, hidden, strict=True)]).mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_only_the_prior_trains(make):
    objective = make()
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    run(objective, [random_batch(8, 8 * i) for i in range(3)], max_steps=3)
    moved = [key for key, value in objective.state_dict().items() if not torch.equal(value, before[key])]
    assert moved
    assert all(key.startswith("generator.prior.") for key in moved)
    assert any(key.startswith("generator.tokenizer.") for key in before), "sampling would need the earlier run"
    assert not [p for p in objective.network("prior").parameters() if not p.requires_grad]


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_seed_is_an_image_at_any_batch_size(make):
    objective = make().eval().requires_grad_(False)
    objective.generator.prior.head.weight.data *= 50

    captions, seeds = ["a" * (1 + i % 4) for i in range(21)], range(21)
    sampler = Sampler(objective, features_of)
    images = sampler(captions, seeds)
    assert len({tuple(image.flatten().tolist()) for image in images}) > 15
    for size in (1, 3, 8):
        other = Sampler(objective, features_of, batch_size=size)
        assert torch.equal(other(captions, seeds), images)
        assert torch.equal(other(captions[4:5], [4]), images[4:5])


def test_a_code_is_where_the_sum_of_the_probabilities_passes_phi():
    logits, normals = torch.randn(7, 5, 32) * 3, torch.randn(7, 5)
    codes, log_probability = make_dalle().generator.choose(logits, torch.special.ndtr(normals.double()))
    probability = logits.softmax(-1, dtype=torch.float64)
    until = probability.cumsum(-1)
    expected = torch.searchsorted(until / until[..., -1:], torch.special.ndtr(normals.double())[..., None], right=True)
    assert torch.equal(codes, expected.squeeze(-1))
    torch.testing.assert_close(log_probability, probability.gather(-1, expected).squeeze(-1).log())


@pytest.mark.slow
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_their_onnx_draws_the_same(make, tmp_path):
    objective = make().eval().requires_grad_(False)
    generator = objective.generator
    generator.prior.head.weight.data *= 50
    latent = noise.normal(0, "sample", torch.arange(5), generator.latent_channels)
    captions = ["a" * i for i in range(1, 6)]
    condition = Condition.cat([features_of([each]) for each in captions])
    onnx.write(exported(FromFeatures(generator), inputs(latent, condition), open_tokens=False), tmp_path / "model.onnx")
    drawn = onnx.Generator(str(tmp_path / "model.onnx"), generator.latent_channels)(latent, condition)
    expected = generator(latent, condition)
    assert len({tuple(image.flatten().tolist()) for image in expected}) == 5
    torch.testing.assert_close(drawn, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("make", [*MAKE.values(), partial(make_latent_gan, matching=1.0)], ids=[*MAKE, "gat_latents"])
def test_what_is_kept_of_the_data_trains_as_the_images_do(make):
    kept, anew = make(), make()
    batches = [random_batch(8, 8 * i) for i in range(3)]
    kind, tokenizer, encode = kept.encoding
    assert tokenizer is kept.generator.tokenizer and kind == ("latents" if isinstance(kept, LatentGAN) else "codes")
    without = []
    for batch in batches:
        with torch.no_grad():
            encoded = encode(batch.as_float().image)
        without.append(replace(batch, image=torch.empty(8, 3, 0, 0, dtype=torch.uint8), encoded=encoded))
    run(kept, without, max_steps=3)
    run(anew, batches, max_steps=3)
    other = anew.state_dict()
    assert all(torch.equal(value, other[key]) for key, value in kept.state_dict().items())


def test_a_prior_needs_a_tokenizer():
    with pytest.raises(UserError, match="tokenizer=outputs/fsq"):
        make_dalle().begin()
