"""In a training on several sizes generators draw at that of the batch, and at their own again behind the step."""

from itertools import pairwise

import pytest
import torch

from trainer.size import Size

SMALL = [
    *("data=folder", "data.source.path=pictures", "data.cache_dir=cache", "data.decoded=false", "data.batch_size=8"),
    *("data.resolution=16", "data.heldout=0.2", "text=scratch", "text.width=16", "text.network.num_layers=1"),
    *("text.encoder.vocabulary=256", "callbacks.evaluation=null", "callbacks.samples=null", "logger.wandb=null"),
    *("data.buckets=[[16,32],[24,24],[32,16]]", "kimg=0.048", "run_dir=run"),
]
EXPERIMENTS = {
    "cgan": 1, "dcgan": 1, "progressive": 1, "stylegan2": 1, "r3gan": 1, "gat": 1, "cvae": 1, "stylevae": 1,
    "vae_gan": 1, "inpainting": 0, "denoising": 0, "super_resolution": 0,
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


def test_a_student_of_a_run_on_sizes_says_what_it_cannot(pictures, command):
    assert command("experiment=dcgan", *SMALL[:-1], "run_dir=teacher").code == 0
    own = ["teacher=teacher", "kimg=0.016", "run_dir=student", "logger.wandb=null", "objective.generator.patch=1"]
    result = command("experiment=distill", *own)
    assert result.code == 2
    assert "objective Distillation knows one size alone; set data.buckets=null" in result.err, result.err
