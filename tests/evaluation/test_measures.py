"""What measures make of a study, against the metrics' own functions on all images at once."""

import hashlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trainer.errors import UserError
from trainer.evaluation import fidelity
from trainer.evaluation import protocol as of_study
from trainer.evaluation.diversity import Diversity
from trainer.evaluation.fidelity import METRICS, Fidelity
from trainer.evaluation.measures import measures
from trainer.evaluation.protocol import run
from trainer.evaluation.reconstruction import Reconstruction
from trainer.evaluation.text import TextMatch
from trainer.metrics.frechet import frechet_distance
from trainer.metrics.inception_score import inception_score, score_sums
from trainer.metrics.kernel import kernel_distance
from trainer.metrics.manifold import density_coverage, precision_recall
from trainer.objectives.image_prior import DeepImagePrior


class Classifier(torch.nn.Module):
    """A backbone with classes, as Inception is."""

    name, sha256, resizer, width = "inception", hashlib.sha256(b"weights").hexdigest(), "clean bicubic 299", 6

    def features(self, images):
        return images.float().unflatten(1, (3, 1)).mean((2, 3)).reshape(len(images), 3, 16)[:, :, :2].flatten(1)

    def logits(self, images):
        return self.logits_of(self.features(images))

    def logits_of(self, features):
        return features / 10


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(of_study, "AT_ONCE", 7)  # several parts, the last one not full


def everything(study):
    samples = study.sampler(study.captions, [study.seed + i for i in range(study.num_images)])
    index = [i * 30 // 25 for i in range(25)]
    return samples, torch.from_numpy(study.references.images[index]).permute(0, 3, 1, 2)


def test_fidelity_equals_the_functions_on_all_features(study, tmp_path):
    samples, references = everything(study)
    net = Classifier()
    found = {figure.metric: figure for figure in run(study, [Fidelity(net, tmp_path)])}
    assert list(found) == ["clean_fid", "clean_kid", *(f"{n}_inception" for n in METRICS[2:6]), "inception_score"]
    real, fake = net.features(references), net.features(samples)
    numpy_moments = [m for x in (real, fake) for m in (x.double().mean(0), torch.from_numpy(np.cov(x.double().T)))]
    assert found["clean_fid"].value == pytest.approx(frechet_distance(*numpy_moments), rel=1e-6)
    assert (found["clean_kid"].value, found["clean_kid"].std) == pytest.approx(kernel_distance(real, fake))
    values = [found[f"{name}_inception"].value for name in METRICS[2:6]]
    equal = fake[np.ceil(np.arange(25) * 40 / 25).astype(int)]  # as many as there are references
    assert values == pytest.approx([*precision_recall(real, equal), *density_coverage(real, equal)])
    score, std = inception_score(score_sums(net.logits(samples), torch.arange(40), 40))
    assert (found["inception_score"].value, found["inception_score"].std) == pytest.approx((score, std))
    protocol = found["clean_fid"].protocol
    assert protocol["version"] == of_study.VERSION
    assert protocol["num_references"] == 25 and protocol["num_images"] == 40 and protocol["seed"] == 3
    assert protocol["sha256"] == net.sha256[:12] and protocol["resizer"] == net.resizer
    assert "num_references" not in found["inception_score"].protocol
    neighbours = found["recall_inception"].protocol
    assert (neighbours["num_images"], neighbours["num_references"]) == (25, 25)
    assert found["clean_fid"].better == "lower" and found["recall_inception"].better == "higher"


@pytest.mark.parametrize(("num_images", "num_references"), [(200, 30), (47, 30), (30, 30), (20, 25)])
def test_neighbours_are_of_equal_numbers_one_sample_a_caption(study, tmp_path, monkeypatch, num_images, num_references):
    seen = []
    monkeypatch.setattr(fidelity, "precision_recall", lambda *sets: seen.append(sets) or (0.0, 0.0))
    numbered = replace(study, num_images=num_images, num_references=num_references)
    net = Classifier()
    run(numbered, [Fidelity(net, tmp_path, ["precision"])])
    real, fake = seen[0]
    assert len(real) == len(fake) == min(num_images, num_references)
    if num_references == 30 <= num_images:  # all that there are: sample i is for the caption of reference i
        first = [numbered.chosen.index(i) for i in range(30)]
        drawn = numbered.sampler([numbered.captions[i] for i in first], [numbered.seed + i for i in first])
        assert torch.equal(fake, net.features(drawn))
    pictures = net.features(torch.from_numpy(study.references.images).permute(0, 3, 1, 2))
    found = torch.cdist(real, pictures).argmin(1).tolist()
    assert found == sorted(set(found)), "no reference twice"


@pytest.mark.parametrize(
    ("resizer", "reconstructs", "names"),
    [
        ("legacy bilinear 299", False, ["fid", "kid"]),
        ("legacy bilinear 299", True, ["rfid", "rkid"]),
        ("clean bicubic 299", True, ["clean_rfid", "clean_rkid"]),
    ],
)
def test_each_resizer_has_a_name_of_its_own(study, tmp_path, monkeypatch, resizer, reconstructs, names):
    monkeypatch.setattr(Classifier, "resizer", resizer)
    measure = Fidelity(Classifier(), tmp_path, ["fd", "kd"])
    run(study, [measure])
    measure.study.reconstructs = reconstructs
    assert [measure._figure(name, 1.0, None).metric for name in ("fd", "kd")] == names


def test_a_run_of_one_picture_is_measured_by_its_own():
    pipe = SimpleNamespace(objective=SimpleNamespace(measured_by=DeepImagePrior.measured_by))
    with pytest.raises(UserError, match=r"checkpoint=RUN: it draws one picture; generator/psnr in its metrics.csv"):
        measures(SimpleNamespace(checkpoint="RUN"), pipe, None)


def test_text_match(study):
    samples, _ = everything(study)
    judge = Classifier()

    def captions(texts):  # a judge that knows: the caption's number is in the first pixel's features of no image
        seen.append(all(text.startswith("A photo depicts ") for text in texts))
        texts = [text.removeprefix("A photo depicts ") for text in texts]
        return torch.stack([judge.features(samples[study.captions.index(text)][None])[0] for text in texts])

    seen = []
    measure = TextMatch(judge, judge.features, captions, ["r_precision", "clip_score"], num_candidates=15)
    precision, score = run(study, [measure])
    assert precision.metric == "r_precision_inception" and score.metric == "clip_score"
    features = judge.features(samples).double()
    texts = captions(list(dict.fromkeys(study.captions))).double()
    cosine = torch.cosine_similarity(features[:, None], texts[None], dim=2)  # all 15 captions are candidates
    own = torch.tensor([list(dict.fromkeys(study.captions)).index(caption) for caption in study.captions])
    assert precision.value == pytest.approx((cosine.argmax(1) == own).double().mean().item())
    assert score.value == pytest.approx(2.5 * cosine[torch.arange(40), own].mean().item())
    assert precision.protocol["candidates"] == 15 and "candidates" not in score.protocol
    assert score.protocol["prefix"] == "A photo depicts" and seen == [False, True, False]


def test_reconstruction(study):
    _, references = everything(study)
    psnr, ssim = run(study, [Reconstruction()])
    back = ((references.double() / 127.5 - 1) * 0.9 + 1).mul(127.5).round()
    error = (back - references).square().mean((1, 2, 3))
    assert psnr.value == pytest.approx((10 * torch.log10(255**2 / error)).mean().item(), rel=1e-4)
    assert 0.9 < ssim.value < 1
    assert psnr.protocol["num_images"] == 25 and psnr.protocol["captions"] == "own"


def test_diversity_is_of_samples_of_one_caption(study):
    net = Classifier()
    (figure,) = run(study, [Diversity(net, num_captions=3)])
    distances = []
    for number, caption in enumerate(("0", "5", "10")):  # of 15, evenly
        features = net.features(study.sampler([caption] * 8, range(3 + 8 * number, 11 + 8 * number)))
        distances.append(torch.pdist(features.double()).mean())
    assert figure.value == pytest.approx(torch.stack(distances).mean().item())
    assert figure.protocol["num_images"] == 24


def test_wrong_metrics(study, tmp_path):
    with pytest.raises(UserError, match="fdd is none of"):
        Fidelity(Classifier(), tmp_path, ["fdd"])
    study.num_references = 5
    with pytest.raises(UserError, match="at least 6"):
        run(study, [Fidelity(Classifier(), tmp_path, ["recall"])])
