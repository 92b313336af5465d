"""In a training on several sizes generators draw at that of the batch, and at their own again behind the step."""

from itertools import pairwise

import pytest
import torch
from conftest_objectives import make_gan

from trainer.errors import UserError
from trainer.size import Size

SMALL = [
    *("data=folder", "data.source.path=pictures", "data.cache_dir=cache", "data.decoded=false", "data.batch_size=8"),
    *("data.resolution=16", "data.heldout=0.2", "text=scratch", "text.width=16", "text.network.num_layers=1"),
    *("text.encoder.vocabulary=256", "callbacks.evaluation=null", "callbacks.samples=null", "logger.wandb=null"),
    *("data.buckets=[[16,32],[24,24],[32,16]]", "kimg=0.048", "run_dir=run"),
]
EXPERIMENTS = {
    "cgan": 1, "dcgan": 1, "progressive": 1, "stylegan2": 1, "r3gan": 1, "gat": 1, "cvae": 1, "stylevae": 1,
    "vae_gan": 1, "inpainting": 0, "denoising": 0, "super_resolution": 0, "projected": 1,
}  # fmt: skip


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for number in range(60):
        size = [(64, 32), (40, 40), (32, 64)][number % 3]
        Image.new("RGB", size, (4 * number, 90, 200)).save(tmp_path / f"pictures/{number:02}.png")
        (tmp_path / f"pictures/{number:02}.txt").write_text(f"thing {number}")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_is_drawn_is_as_large_as_what_is_learned(name, pictures, command, monkeypatch):
    from trainer.objectives.base import Objective

    seen, steps, drawn = [], Objective.training_step, []

    def step(self, batch, number):
        network = self.get_submodule(self.draws_with)
        hooks = [network.register_forward_hook(lambda _m, _i, images: drawn.append(images))]
        if name == "stylegan2":
            hooks = [network.synthesis.register_forward_hook(lambda _m, _i, images: drawn.append(images))]
        drawn.clear()
        steps(self, batch, number)
        for hook in hooks:
            hook.remove()
        size = Size(*batch.image.shape[2:])
        seen.append(size)
        if name not in ("cgan", "gat"):  # whose images come in stages and levels
            assert drawn and all(Size(*images.shape[2:]) == size for images in drawn), name
        assert all(getattr(module, "canvas", None) is None for module in self.modules()), "its own size again"
        assert all(torch.isfinite(parameter).all() for parameter in self.parameters())

    monkeypatch.setattr(Objective, "training_step", step)
    result = command(f"experiment={name}", *SMALL)
    assert result.code == 0, result.err
    assert len(seen) == 6 and len({*seen}) == 3 and any(a != b for a, b in pairwise(seen))


@pytest.mark.parametrize("name", ["vqvae", "vqgan", "fsq", "matching"])
def test_what_draws_nothing_learns_of_all_sizes(name, pictures, command, monkeypatch):
    from trainer.objectives.base import Objective

    seen, steps = [], Objective.training_step

    def step(self, batch, number):
        steps(self, batch, number)
        seen.append(Size(*batch.image.shape[2:]))
        if name != "matching":
            with torch.no_grad():
                assert self.reconstruct(batch.image, batch.condition).shape == batch.image.shape
        assert all(torch.isfinite(parameter).all() for parameter in self.parameters())

    monkeypatch.setattr(Objective, "training_step", step)
    off = ["callbacks.samples=null"] if name != "matching" else ["callbacks.retrieval=null"]
    result = command(f"experiment={name}", *[each for each in SMALL if "samples" not in each], *off)
    assert result.code == 0, result.err
    assert len(seen) == 6 and len({*seen}) == 3


@pytest.mark.parametrize("name", ["distill", "distill_data"])
def test_a_student_draws_what_its_teacher_does(name, pictures, command, monkeypatch):
    from trainer.objectives.distillation import Distillation

    assert command("experiment=dcgan", *SMALL[:-1], "run_dir=teacher").code == 0
    taught, known = [], Distillation.taught

    def teach(self, batch):
        taught.append((known(self, batch), batch.image))
        return taught[-1][0]

    monkeypatch.setattr(Distillation, "taught", teach)
    own = ["teacher=teacher", "kimg=0.048", "run_dir=student", "logger.wandb=null", "objective.pixel=1"]
    own += ["objective.generator.patch=1"]
    result = command(f"experiment={name}", *own, "callbacks.evaluation=null", "callbacks.samples=null")
    assert result.code == 0, result.err
    assert len({images.shape for images, _ in taught}) == 3
    assert all(images.shape == real.shape for images, real in taught)


def test_a_network_of_one_size_is_named():
    gan = make_gan()
    gan.require_sizes([Size(16, 24)])
    gan.discriminator = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"data.buckets=\[\[16, 24\]\]: the discriminator knows one size alone"):
        gan.require_sizes([Size(16, 24)])


def test_what_a_side_cannot_be_divided_by_is_told_at_the_start(pictures, command):
    own = [*SMALL, "data.resolution=64"]
    result = command("experiment=gat", *own, "objective.generator.patch=16", "objective.discriminator.patch=16")
    assert result.code == 2
    assert "expected multiples of 16, which transformer.Generator divides sides by" in result.err, result.err
