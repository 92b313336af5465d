"""What generators are rewarded for: each as its formula says, with a gradient to the image."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest_objectives import RESOLUTION, See, features_of, make_matching
from PIL import Image

from trainer.data.shapes import Shapes
from trainer.errors import UserError
from trainer.objectives.rewards import Attributes, Matching, Preference
from trainer.runs import trained
from trainer.runs.scenes_probe import label, scenes_probe

CAPTIONS = ["a", "bb", "ccc", "dddd", "eeeee"]


def data_of(captions=CAPTIONS, resolution=RESOLUTION, **more):
    return SimpleNamespace(
        resolution=resolution, train=SimpleNamespace(cache=SimpleNamespace(captions=captions, **more))
    )


@pytest.fixture
def matcher(monkeypatch, tmp_path):
    objective = make_matching().eval().requires_grad_(False)
    objective.config = {"name": "matching", "data": {"resolution": RESOLUTION}}
    monkeypatch.setattr("trainer.runs.checkpoint.newest", Path)
    monkeypatch.setattr("trainer.runs.checkpoint.load", lambda path, device: objective)
    monkeypatch.setattr(trained.Matcher, "encoder", staticmethod(features_of))
    (tmp_path / "matching.ckpt").write_bytes(b"weights")
    return str(tmp_path / "matching.ckpt")


def gradient(reward, image, caption):
    image = image.clone().requires_grad_()
    (found,) = torch.autograd.grad(reward(image, caption).sum(), image)
    return found


def test_matching_is_the_probability_of_the_caption(matcher):
    reward = Matching(matcher)
    reward.prepare(data_of(), torch.device("cpu"))
    image, caption = torch.rand(3, 3, RESOLUTION, RESOLUTION) * 2 - 1, torch.tensor([0, 4, 2])
    network = reward.matcher.objective.matcher
    with torch.no_grad():
        scores = 10 * torch.cosine_similarity(
            network.image(image)[0][:, None], network.text(features_of(CAPTIONS))[0][None], dim=2
        )
    torch.testing.assert_close(reward(image, caption), scores.log_softmax(1)[range(3), caption])
    assert (gradient(reward, image, caption).abs().sum((1, 2, 3)) > 0).all()
    assert not any(parameter.requires_grad for parameter in reward.matcher.objective.parameters())


def test_fewer_candidates_are_spread_evenly_and_the_own_caption_is_always_among_them(matcher):
    whole, few = Matching(matcher), Matching(matcher, candidates=2)
    for each in (whole, few):
        each.prepare(data_of(), torch.device("cpu"))
    assert few.others.tolist() == [0, 4]
    image, caption = torch.rand(3, 3, RESOLUTION, RESOLUTION) * 2 - 1, torch.tensor([0, 1, 4])
    some = whole(image, torch.tensor([0, 0, 0])), whole(image, torch.tensor([4, 4, 4])), whole(image, caption)
    expected = some[2] - torch.stack([some[0].exp(), some[1].exp(), some[2].exp() * (caption == 1)]).sum(0).log()
    torch.testing.assert_close(few(image, caption), expected)


def test_a_matcher_of_another_size_is_refused(matcher):
    with pytest.raises(UserError, match=r"matcher=.* has data.resolution=16, and this run 32"):
        Matching(matcher).prepare(data_of(resolution=32), torch.device("cpu"))
    with pytest.raises(UserError, match="matcher=null: name the run that rewards"):
        Matching(None)


def scenes(max_objects=1, count=40):
    """Data of scenes, the first five of them held out."""
    source = Shapes(num_images=count, max_objects=max_objects)
    items = [source.item(number) for number in range(count)]
    captions = [*dict.fromkeys(item.captions[0] for item in items)]
    ids, indices = np.array([captions.index(item.captions[0]) for item in items]), np.arange(5, count)
    cache = SimpleNamespace(captions=captions, caption_ids=ids, caption_starts=np.arange(count + 1))
    told = [items[index].attributes for index in indices]
    train = SimpleNamespace(cache=cache, indices=indices, attributes=told)
    data = SimpleNamespace(resolution=32, source=source, train=train, cache_dir="nowhere")
    pictures = torch.stack([torch.from_numpy(np.array(item.load(32))).permute(2, 0, 1) for item in items])
    return data, pictures, torch.from_numpy(ids)


def test_attributes_are_the_log_probability_of_the_scene():
    data, pictures, captions = scenes()
    reward = Attributes()
    reward.prepare(data, torch.device("cpu"))
    image = pictures.float() / 127.5 - 1
    right = reward(image, captions)[5:]
    other = reward(image, captions.roll(1))[6:]
    assert right.median() > -0.5 and other.max() < -5
    probe, _ = scenes_probe(32, 1, "nowhere")
    wanted = torch.tensor(label(data.source.item(7).load.__self__))
    logits = probe(pictures[7:8])
    expected = sum(each.log_softmax(1)[0, value] for each, value in zip(logits, wanted, strict=True))
    torch.testing.assert_close(reward(image[7:8], captions[7:8])[0], expected)
    assert (gradient(reward, image, captions.roll(1)).abs().sum((1, 2, 3)) > 0).all()


def test_attributes_are_of_scenes_of_one_object():
    for data in (scenes(max_objects=2, count=8)[0], SimpleNamespace(source=object())):
        with pytest.raises(UserError, match="scenes of one object"):
            Attributes().prepare(data, torch.device("cpu"))


def test_a_preference_is_learned_from_pairs(tmp_path, capsys):
    """Of what is red."""
    draw, lines = np.random.default_rng(0), []
    for number in range(30):
        red, other = draw.integers(0, 256, (2, 3))
        red, other = sorted((red, other), key=lambda colour: int(colour[0]), reverse=True)
        for name, colour in (("a", red), ("b", other)):
            Image.new("RGB", (RESOLUTION, RESOLUTION), tuple(map(int, colour))).save(tmp_path / f"{name}{number}.png")
        lines.append(json.dumps({"better": f"a{number}.png", "worse": f"b{number}.png"}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    reward, again = (Preference(str(tmp_path / "pairs.jsonl"), See) for _ in range(2))
    for each in (reward, again):
        each.prepare(data_of(), torch.device("cpu"))
    assert torch.equal(reward.weight, again.weight)
    assert "30 pairs of 60 pictures" in capsys.readouterr().err
    colours = torch.tensor([[1.0, 0, 0], [0.2, 0, 0], [-1.0, 0, 0]])
    image = colours[:, :, None, None].expand(-1, -1, RESOLUTION, RESOLUTION)
    found = reward(image, torch.zeros(3))
    assert found[0] > found[1] > found[2]
    features = torch.cat([each.mean((2, 3)) for each in See().see(image)], 1)
    torch.testing.assert_close(found, ((features - reward.mean) / reward.std * reward.weight).sum(1))
    assert gradient(reward, image, torch.zeros(3)).abs().sum() > 0


def test_a_preference_needs_its_pairs():
    with pytest.raises(UserError, match="pairs=null: name a file of lines"):
        Preference(None, See)
