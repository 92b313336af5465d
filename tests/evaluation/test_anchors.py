"""What stands at the two ends of a figure, against the metrics' own functions on the pictures themselves."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trainer.data.shapes import Shapes
from trainer.evaluation.anchors import with_anchors
from trainer.evaluation.diversity import Diversity
from trainer.evaluation.fidelity import Fidelity
from trainer.evaluation.protocol import run_each
from trainer.evaluation.text import TextMatch
from trainer.metrics.frechet import frechet_distance
from trainer.metrics.manifold import precision_recall


class Backbone(torch.nn.Module):
    """Six means of an image. measured: how many images each time."""

    name, sha256, resizer, width = "means", "0" * 64, "none", 6

    def __init__(self):
        super().__init__()
        self.measured = []

    def features(self, images):
        self.measured.append(len(images))
        return images.float().unflatten(3, (2, 8)).mean((2, 4)).flatten(1)


def pixels(images, numbers):
    return torch.from_numpy(images[list(numbers)]).permute(0, 3, 1, 2)


def distance(one, two):
    features = [Backbone().features(images).double() for images in (one, two)]
    moments = [m for x in features for m in (x.mean(0), torch.from_numpy(np.cov(x.T)))]
    return pytest.approx(frechet_distance(*moments), rel=1e-6)


@pytest.fixture
def train():
    """Darker than what is held out, so farther from it than its own halves are from each other."""
    return SimpleNamespace(images=np.random.default_rng(1).integers(0, 120, (50, 16, 16, 3), dtype=np.uint8))


def anchored(study, train, folder, metrics=("fd", "precision"), backbone=None):
    measures = [Fidelity(backbone or Backbone(), folder, metrics)]
    return {f.metric: f for f in with_anchors(run_each(study, measures), study, measures, train, folder)}


def test_one_half_of_what_is_held_out_against_the_other(study, train, tmp_path):
    found = anchored(study, train, tmp_path)
    real, half = (pixels(study.references.images, numbers) for numbers in (range(0, 30, 2), range(1, 30, 2)))
    anchors = found["fd_means"].anchors
    assert anchors["real"] == distance(real, half) and anchors["real"] < anchors["shuffled"]
    assert anchors["pictures"] == "15 of heldout beside 15 references"
    precision, _ = precision_recall(Backbone().features(real), Backbone().features(half))
    assert found["precision_means"].anchors["real"] == precision


def test_training_pictures_in_the_place_of_samples(study, train, tmp_path):
    found = anchored(study, train, tmp_path)["fd_means"]
    references = pixels(study.references.images, [i * 30 // 25 for i in range(25)])
    assert found.anchors["shuffled"] != distance(references, pixels(train.images, range(40))), "in a random order"
    whole = anchored(replace(study, num_images=50), train, tmp_path)["fd_means"]
    assert whole.anchors["shuffled"] == distance(references, pixels(train.images, range(50))), "each one once"


def test_pictures_that_are_left_over_are_taken_in_the_same_protocol(study, train, tmp_path):
    anchors = anchored(replace(study, num_images=10, num_references=20), train, tmp_path, ["fd"])["fd_means"].anchors
    index = [i * 30 // 20 for i in range(20)]
    rest = [i for i in range(30) if i not in index]
    assert anchors["real"] == distance(*(pixels(study.references.images, each) for each in (index, rest)))
    assert anchors["pictures"] == "10 of heldout beside 20 references"


@pytest.mark.parametrize("few", [False, True])
def test_training_pictures_are_real_ones_too_where_they_score_better(study, tmp_path, few):
    train = SimpleNamespace(images=study.references.images.copy())
    if few:
        study.references.images = study.references.images[:16]
        study.references.captions = study.references.captions[:16]
        study = replace(study, num_references=16)
    anchors = anchored(study, train, tmp_path)["fd_means"].anchors
    assert anchors["real"] == anchors["shuffled"] and anchors["pictures"] == "40 of training"


def test_texts_are_matched_with_their_own_pictures_and_with_any(study, train, tmp_path):
    judge = Backbone()
    own = {caption: study.references.images[[2 * int(caption)]] for caption in study.references.captions}

    def captions(texts):  # knows the first picture of each caption
        return judge.features(torch.from_numpy(np.concatenate([own[text] for text in texts])).permute(0, 3, 1, 2))

    def images(pictures):  # cosines of features far from the origin rank by what differs
        return judge.features(pictures)

    measures = [TextMatch(judge, images, captions, ["r_precision"], num_candidates=15), Diversity(judge, 3)]
    match, diversity = with_anchors(run_each(study, measures), study, measures, train, tmp_path)
    firsts = sum(i * 30 // 40 % 2 == 0 for i in range(40)) / 40
    assert match.anchors["real"] >= firsts and match.anchors["shuffled"] < 0.3
    assert match.anchors["pictures"] == "of the 40 captions"
    pairs = [torch.pdist(judge.features(pixels(study.references.images, (i, i + 1))).double()) for i in range(0, 30, 2)]
    assert diversity.anchors["real"] == pytest.approx(torch.cat(pairs).mean().item()), "of both of a caption"
    assert diversity.anchors["shuffled"] > 0 and diversity.anchors["pictures"].startswith("of 15 captions of heldout")


def test_where_no_caption_has_two_pictures_diversity_has_no_anchors(study, train, tmp_path):
    study.references.captions = [str(i) for i in range(30)]
    measures = [Diversity(Backbone(), 3)]
    (found,) = with_anchors(run_each(study, measures), study, measures, train, tmp_path)
    assert not found.anchors


def test_new_pictures_of_a_source_that_makes_them(study, train, tmp_path):
    source = Shapes(num_images=40, max_objects=1)
    measures = [Fidelity(Backbone(), tmp_path, ["fd"])]
    (found,) = with_anchors(run_each(study, measures), study, measures, train, tmp_path, source)
    new = source.others(40)
    assert all(item.heldout for item in new) and len({item.key for item in new}) == 40
    assert not {item.key for item in new} & {item.key for item in source.items()}
    made = np.stack([np.asarray(item.load(16)) for item in new])
    references = pixels(study.references.images, [i * 30 // 25 for i in range(25)])
    assert found.anchors["pictures"] == "40 new ones"
    assert found.anchors["real"] == distance(references, pixels(made, range(40)))


def test_reconstructions_have_none(study, train, tmp_path):
    assert not any(f.anchors for f in anchored(replace(study, reconstructs=True), train, tmp_path).values())


def test_measured_once_a_protocol(study, train, tmp_path):
    first, again, other, torn = (Backbone() for _ in range(4))
    found = anchored(study, train, tmp_path, backbone=first)
    assert anchored(study, train, tmp_path, backbone=again) == found
    assert sum(first.measured) == 25 + 40 + 40 + 15 + 15 and sum(again.measured) == 40
    assert anchored(replace(study, seed=4), train, tmp_path, backbone=other) != found and sum(other.measured) == 95
    for file in (tmp_path / "anchors").iterdir():
        file.write_text("{")
    assert anchored(study, train, tmp_path, backbone=torn) == found and sum(torn.measured) == 95
    assert {file.name[:3] for file in (tmp_path / "anchors").iterdir()} == {"fd_", "pre"}


def test_a_cache_that_cannot_be_written_costs_time_only(study, train, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    assert anchored(study, train, tmp_path / "file")["fd_means"].anchors
    assert "the anchors are not kept" in capsys.readouterr().err
