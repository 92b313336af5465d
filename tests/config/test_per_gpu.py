"""What a run is told of its GPUs: a batch that grows with them, learning rates that go with its root, and TF32."""

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from trainer.config import per_gpu
from trainer.process import ranks


def config(**more):
    adam = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.001}
    objective = {"optimizer": {"generator": adam, "discriminator": {**adam, "lr": "${..generator.lr}"}}, "reader": None}
    data = {"batch_size": 32, "resolution": 32}
    given = {"objective": objective, "data": data, "images_per_gpu": 16, "trainer": {"accelerator": "cuda"}, **more}
    return OmegaConf.create(given)


def test_the_batch_goes_with_the_gpus_and_learning_rates_with_its_root():
    cfg = config()
    line = per_gpu.apply(cfg, 8, None)
    assert cfg.data.batch_size == 128
    assert cfg.objective.optimizer.generator.lr == pytest.approx(0.002)
    assert cfg.objective.optimizer.discriminator.lr == pytest.approx(0.002)  # not twice, though it refers to the other
    assert cfg.images_per_gpu is None
    assert line == "batches of 128 images, learning rates x 2, the root of 128 / 32"


def test_a_run_that_goes_on_keeps_its_batch_on_another_number_of_gpus():
    cfg = config()
    per_gpu.apply(cfg, 2, going_on=128)
    assert (cfg.data.batch_size, cfg.objective.optimizer.generator.lr) == (128, pytest.approx(0.002))


@pytest.mark.parametrize(("gpus", "images", "told"), [(1, 4, ""), (8, 512, ""), (8, 64, "images_per_gpu=64 gives")])
def test_gpus_with_too_few_images_are_told(gpus, images, told):
    line = per_gpu.idle(config(data={"batch_size": images, "resolution": 32}), gpus)
    assert (told in line) if told else not line


@pytest.mark.parametrize(
    ("devices", "expected"), [("auto", 3), (-1, 3), (4, 12), ([0, 2], 6), ("0,1", 6), ("2", 6)], ids=str
)
def test_processes_by_lightnings_arguments(devices, expected):
    assert ranks.count(devices, 3, "cpu") == expected


def test_a_training_says_so_and_its_folder_has_the_batch(project, command):
    result = command("experiment=small", "data=shapes", "images_per_gpu=24", "run_dir=done")
    assert result.code == 0, result.err
    assert "batches of 24 images, learning rates x 0.612, the root of 24 / 64" in result.err
    config = yaml.safe_load((project / "done/config.yaml").read_text())
    assert (config["data"]["batch_size"], config["images_per_gpu"]) == (24, None)
    (project / "done/checkpoints").mkdir()
    saved = {"config": config, "state_dict": {}, "ema": {}, "images_seen": 240}
    torch.save(saved, project / "done/checkpoints/kimg000000.240.ckpt")
    assert "start=240" in command("resume=done").out
    again = command("experiment=small", "data=shapes", "images_per_gpu=12", "run_dir=done")  # on other GPUs
    assert "start=240" in again.out, again.err
    assert yaml.safe_load((project / "done/config.yaml").read_text())["data"]["batch_size"] == 24


def test_less_than_one_image(project, command):
    result = command("experiment=small", "data=shapes", "images_per_gpu=0")
    assert (result.code, result.err) == (2, "images_per_gpu=0: expected 1 or more\n")


@pytest.mark.parametrize("allowed", [True, False, None])
def test_products_of_float32_on_a_gpu(project, command, allowed):
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32)
    try:
        said = [] if allowed is None else [f"tf32={allowed}"]
        assert command("experiment=small", "data=shapes", *said).code == 0
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (before if allowed is None else (allowed, allowed))
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
