"""DINOv2 and CLIP with tiny random models, saved as the hub's are."""

import hashlib

import huggingface_hub
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image

from tests.text.conftest import save_tiny_model
from trainer.backbones import clip, dinov2, hub
from trainer.errors import UserError


@pytest.fixture(scope="module")
def dinov2_folder(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    folder = tmp_path_factory.mktemp("dinov2")
    transformers.Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return save_tiny_model("clip", tmp_path_factory.mktemp("clip"), projection_dim=12)


@pytest.fixture
def images():
    return torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def pillow(images, size, mean, std):
    """As the hub's own image processors make them, which need torchvision."""
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    resized = [np.asarray(each.resize((size, size), Image.Resampling.BICUBIC)) for each in pictures]
    pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2) / 255
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def test_dinov2_gives_the_class_token(dinov2_folder, images):
    backbone = dinov2.load(str(dinov2_folder))
    reference = transformers.Dinov2Model.from_pretrained(dinov2_folder).eval()
    with torch.no_grad():
        pixels = pillow(images, 224, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        expected = reference(pixel_values=pixels).pooler_output  # transformers' name for the same
    features = backbone.features(images)
    assert features.shape == (3, 16) == (3, backbone.width) and features.dtype == torch.float32
    torch.testing.assert_close(features, expected, atol=2e-3, rtol=0)
    assert (features[0] - features[1]).abs().max() > 0.01
    weights = (dinov2_folder / "model.safetensors").read_bytes()
    assert (backbone.name, backbone.resizer) == ("dinov2", "bicubic 224")
    assert backbone.sha256 == hashlib.sha256(weights).hexdigest()
    assert not backbone.training and not any(p.requires_grad for p in backbone.parameters())


def test_clip_is_the_models_own_cosine(clip_folder, images):
    backbone = clip.load(str(clip_folder))
    reference = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    captions = ["a red circle", "blue", "the big green apple on a small car"]
    tokens = transformers.AutoTokenizer.from_pretrained(clip_folder)(captions, padding=True, return_tensors="pt")
    pixels = pillow(images, 8, [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    with torch.no_grad():
        logits = reference(pixel_values=pixels, **{k: tokens[k] for k in ("input_ids", "attention_mask")})
    cosines = logits.logits_per_image / reference.logit_scale.exp().item()
    features, text = backbone.features(images), backbone.text(captions)
    assert features.shape == text.shape == (3, 12) == (3, backbone.width) and backbone.resizer == "bicubic 8"
    torch.testing.assert_close(F.normalize(features) @ F.normalize(text).T, cosines, atol=2e-3, rtol=0)
    assert cosines.std() > 0.02
    given = (images / 127.5 - 1).requires_grad_()
    vectors = backbone.vectors(given)
    assert (F.cosine_similarity(vectors, features) > 0.999).all(), "but for the rounding of resized pixels"
    (slope,) = torch.autograd.grad(vectors[1].sum(), given)
    assert slope[1].any() and not slope[0].any()
    one = torch.cat([backbone.text([caption]) for caption in captions])
    torch.testing.assert_close(text, one)  # neighbours and their padding change nothing
    assert backbone.text(["red " * 100]).shape == (1, 12)  # cut


def test_batches_are_cut_without_a_trace(clip_folder, images, monkeypatch):
    backbone = clip.load(str(clip_folder))
    features, text = backbone.features(images), backbone.text(["a", "red", "car"])
    monkeypatch.setattr(hub, "IMAGES_AT_ONCE", 2)
    torch.testing.assert_close(backbone.features(images), features)
    torch.testing.assert_close(backbone.text(["a", "red", "car"]), text)


def test_several_weight_files_have_one_checksum(clip_folder, dinov2_folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((dinov2_folder / name).read_bytes())
    single = hub._digest(tmp_path)
    (tmp_path / "model-2.safetensors").write_bytes(b"more")
    assert hub._digest(tmp_path) != single and len(hub._digest(tmp_path)) == 64


def test_mistakes(clip_folder, dinov2_folder, tmp_path):
    with pytest.raises(UserError, match=r"/clip\d*: a clip model, expected dinov2"):
        dinov2.load(str(clip_folder))
    with pytest.raises(UserError, match=r"^/none: no such folder; give a folder or a hub id"):
        clip.load("/none")
    with pytest.raises(UserError, match=r"expected config.json and \*.safetensors in it"):
        clip.load(str(tmp_path))
    config = (dinov2_folder / "config.json").read_bytes()
    (tmp_path / "config.json").write_bytes(config)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be loaded as Dinov2Model"):
        dinov2.load(str(tmp_path))


def test_incomplete_weights_do_not_stay_random(dinov2_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = load_file(dinov2_folder / "model.safetensors")
    weights.pop("layernorm.weight")
    (tmp_path / "config.json").write_bytes((dinov2_folder / "config.json").read_bytes())
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 weights, as layernorm.weight"):
        dinov2.load(str(tmp_path))


def test_the_hub_out_of_reach(monkeypatch):
    def absent(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("none")

    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("trainer.pretrained.hub.is_reachable", lambda: True)  # whatever the machine's network
    monkeypatch.setattr(huggingface_hub, "snapshot_download", absent)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(UserError) as told:
        dinov2.load()
    assert str(told.value) == (
        "facebook/dinov2-large is not on this machine and the Hugging Face hub gave none (no route to host): "
        "check id and network, or give a local folder in its place"
    )


def test_this_machines_copy_is_enough(monkeypatch, dinov2_folder):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, local_files_only=False, **__: dinov2_folder)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: pytest.fail("asked the hub"))
    assert dinov2.load().width == 16


def test_maps_to_learn_from_are_layers_of_patches(dinov2_folder, clip_folder, images):
    """The last one of DINOv2 is what its own normalisation makes the features of; each has a gradient to its image."""
    for folder, module, depth in ((dinov2_folder, dinov2, 2), (clip_folder, clip, None)):
        backbone = module.load(str(folder))
        given = (images / 127.5 - 1).requires_grad_()
        maps = backbone.see(given)
        assert len(maps) == 4 and len({each.shape for each in maps}) == 1
        (slope,) = torch.autograd.grad(maps[0][1].sum(), given, retain_graph=True)
        assert slope[1].any() and not slope[0].any()
        model = backbone.vision()
        pixels = (images_at(given, backbone) - backbone.mean) / backbone.std
        seen = model(pixel_values=pixels, output_hidden_states=True)
        tokens = maps[3].flatten(2).transpose(1, 2)
        torch.testing.assert_close(tokens, seen.hidden_states[-1][:, 1:], atol=1e-4, rtol=1e-4)
        if depth:
            torch.testing.assert_close(model.layernorm(tokens), seen.last_hidden_state[:, 1:], atol=1e-4, rtol=1e-4)


def images_at(images, backbone):
    pixels = images.detach() * 127.5 + 127.5
    return F.interpolate(pixels, size=(backbone.size,) * 2, mode="bicubic", antialias=True)
