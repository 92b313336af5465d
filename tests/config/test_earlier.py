"""resume=RUN and init=RUN beside what else a command line chooses, with the packaged conf and Hydra itself."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from trainer.errors import UserError
from trainer.runs.judges import require_untaught
from trainer.runs.run_folder import BOX, flat


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What a run of experiment=dcgan at 16 pixels leaves for others: composed.yaml beside a folder of checkpoints."""
    import contextlib
    import io
    import signal
    import sys

    from trainer.__main__ import main
    from trainer.process import signals

    folder = tmp_path_factory.mktemp("runs") / "saved"
    (folder / "checkpoints").mkdir(parents=True)
    text = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(text):
        given = ["experiment=dcgan", "data.resolution=16", "strategy=ddp", "trainer.precision=bf16-mixed"]
        patch.setattr(sys, "argv", ["trainer", *given, "objective.clip=1", "--cfg", "job"])
        handlers = {number: signal.getsignal(number) for number in signals.STOPPING}
        main()
        signals.restore(handlers)
    (folder / "composed.yaml").write_text(text.getvalue())
    return folder


@pytest.fixture
def composed(command, run):
    """(dotted keys that differ from the run's, result) of a command line; the words come before or behind its flags."""

    def compose(*arguments):
        result = command(*arguments, "--cfg", "job")
        if result.code:
            return SimpleNamespace(changed={}, result=result)
        now, before = (
            flat(OmegaConf.to_container(OmegaConf.create(text)))
            for text in (result.out, (run / "composed.yaml").read_text())
        )
        place = ("resume", "init", "run_dir")
        changed = {k: now.get(k) for k in now.keys() | before.keys() if now.get(k) != before.get(k) and k not in place}
        return SimpleNamespace(changed=changed, result=result)

    return compose


@pytest.mark.parametrize("key", ["resume", "init"])
def test_alone_it_is_the_saved_run(composed, run, key):
    found = composed(f"{key}={run}")
    assert (found.result.code, found.changed) == (0, {}), found.result.err


CHOSEN = {
    "strategy=fsdp": {
        "strategy._target_": "trainer.strategies.fsdp.FSDP", "strategy.unit_parameters": 1000000,
        "strategy.replicas": 1, "strategy.gather_dtype": "float32", "strategy.offload_parameters": False,
    },
    "strategy=zero2": {
        "strategy._target_": "trainer.strategies.zero.ZeRO", "strategy.stage": 2, "strategy.offload_optimizer": False,
    },
    "trainer=default": {"trainer.precision": "32-true"},
    "callbacks=default": {},
    "logger=default": {},
    "backbone@callbacks.evaluation.backbone=inception": {
        "callbacks.evaluation.backbone._target_": "trainer.backbones.inception.load",
        "callbacks.evaluation.backbone.resizer": "clean",
        "callbacks.evaluation.backbone.resolution": None,
        "callbacks.evaluation.backbone.variant": None,
    },
    "augment@objective.augment=null": {
        **{f"objective.augment.{key}": None for key in ("_target_", "colour", "translation", "cutout")},
    },
    "discriminator@objective.discriminator=residual": {
        "objective.discriminator._target_": "trainer.networks.residual.Discriminator",
        "objective.discriminator.patches": None,
    },
}  # fmt: skip


@pytest.mark.parametrize("choice", CHOSEN)
def test_a_group_on_the_command_line_wins(composed, run, choice):
    found = composed(f"resume={run}", choice)
    assert (found.result.code, found.changed) == (0, CHOSEN[choice]), found.result.err


@pytest.mark.parametrize("key", ["resume", "init"])
def test_other_data_keep_the_size_of_the_networks(composed, run, key):
    """README: init=RUN kimg=20 data=folder data.source.path=PICTURES."""
    found = composed(f"{key}={run}", "kimg=20", "data=folder", "data.source.path=pictures")
    assert found.result.code == 0, found.result.err
    assert found.changed.pop("kimg") == 20
    assert found.changed["data.source._target_"] == "trainer.data.folder.Folder"
    assert found.changed["data.source.path"] == "pictures"
    assert not {"data.resolution", "data.batch_size"} & found.changed.keys()


def test_a_part_of_a_chosen_group_is_left_to_it(composed, run):
    found = composed(f"init={run}", "objective=gan", "discriminator@objective.discriminator=residual")
    assert found.result.code == 0, found.result.err
    assert found.changed["objective.discriminator._target_"] == "trainer.networks.residual.Discriminator"
    assert found.changed["objective.clip"] is None


def test_values_and_own_parts_as_ever(composed, run):
    own = "+callbacks.mine._target_=trainer.callbacks.stop.Stop"
    found = composed(f"resume={run}", "strategy=fsdp", "strategy.unit_parameters=5", own, "kimg=7")
    assert found.changed == {
        "strategy._target_": "trainer.strategies.fsdp.FSDP", "strategy.unit_parameters": 5, "strategy.replicas": 1,
        "strategy.gather_dtype": "float32", "strategy.offload_parameters": False,
        "callbacks.mine._target_": "trainer.callbacks.stop.Stop", "kimg": 7,
    }  # fmt: skip


def test_a_mistyped_option_is_one_line(composed, run):
    found = composed(f"resume={run}", "strategy=fsdp3")
    assert found.result.code == 2
    assert "strategy=fsdp3: no such option; did you mean fsdp?" in found.result.err


@pytest.mark.parametrize("key", ["resume", "init"])
def test_a_run_that_was_kept_to_the_cpu_stays_there(composed, run, key):
    """`gpus_per_node=0 trainer.devices=2` are two processes; without the first, two GPUs would be asked for."""
    text = (run / "composed.yaml").read_text()
    assert "\ngpus_per_node: auto\n" in text
    for count, wanted in (("0", 0), ("4", "auto")):
        (run / "composed.yaml").write_text(text.replace("\ngpus_per_node: auto\n", f"\ngpus_per_node: {count}\n"))
        kept = OmegaConf.create(composed(f"{key}={run}").result.out)
        assert kept.gpus_per_node == wanted
        assert OmegaConf.create(composed(f"{key}={run}", "gpus_per_node=2").result.out).gpus_per_node == 2
    (run / "composed.yaml").write_text(text)


def test_what_taught_the_tokenizer_may_not_judge_what_stands_on_it(command, tmp_path):
    node = {"_target_": "trainer.backbones.effnet_lite.load", "variant": 0, "resolution": 64, "resizer": "bilinear"}
    vqgan = command("experiment=vqgan", "--cfg", "job", "--resolve")
    (tmp_path / "config.yaml").write_text(vqgan.out)
    composed = command("experiment=dalle", f"tokenizer={tmp_path}", "--cfg", "job")
    assert composed.code == 0, composed.err
    config = OmegaConf.to_container(OmegaConf.create(composed.out))
    with pytest.raises(UserError, match="backbone effnet_lite variant=0 taught a network of this run"):
        require_untaught(node, config, "")
    require_untaught(node | {"variant": 2}, config, "")
    run = tmp_path / "run"
    run.mkdir()
    (run / "composed.yaml").write_text(composed.out)
    resumed = command(f"resume={run}", "--cfg", "job")
    assert OmegaConf.to_container(OmegaConf.create(resumed.out))["backbones"] == config["backbones"]


def test_a_student_draws_from_as_many_latents_as_its_teacher(command, tmp_path):
    key, tokenizer = "objective.generator.latent_channels", tmp_path / "tokenizer"
    tokenizer.mkdir()
    saved = command("experiment=fsq_shapes", "--cfg", "job", "--resolve")
    (tokenizer / "config.yaml").write_text(saved.out)
    for experiment, of_teacher, of_student, expected in (
        ("cgan", [], [], 128),  # with those of its caption's Gaussian
        ("cgan", [], [f"{key}=96"], 96),
        ("dcgan", [f"{key}=32"], [], 32),
        ("cvae", [], [], 64),
        ("dalle", ["tokenizer=TOKENIZER"], [], 16),
        ("maskgit", ["tokenizer=TOKENIZER", "objective.generator.num_steps=4"], [], 128),
    ):
        of_teacher = [each.replace("TOKENIZER", str(tokenizer)) for each in of_teacher]
        teacher = command(f"experiment={experiment}", *of_teacher, "--cfg", "job", "--resolve")
        assert teacher.code == 0, teacher.err
        (tmp_path / "config.yaml").write_text(teacher.out)
        composed = command("experiment=distill", *of_student, f"teacher={tmp_path}", "--cfg", "job")
        assert composed.code == 0, composed.err
        found = OmegaConf.create(composed.out)
        assert OmegaConf.select(found, key) == expected
        assert OmegaConf.select(found, "objective.feature") == (0 if "tokenizer" in str(of_teacher) else 2)


def test_a_student_of_a_model_of_the_box(command):
    """The latents are those of a network behind a text encoder, in an export, which has nothing that sees images."""
    for name, latents in (("shapes", 256), ("emoji", 64)):
        composed = command("experiment=distill", f"teacher={name}", "--cfg", "job")
        assert composed.code == 0, composed.err
        found = OmegaConf.create(composed.out).objective
        assert (found.generator.latent_channels, found.feature) == (latents, 0)


@pytest.mark.parametrize(("start", "place"), [("dcgan", "generator"), ("cvae", "autoencoder.decoder")])
def test_a_reward_takes_what_draws_of_its_start(command, tmp_path, start, place):
    saved = command(f"experiment={start}", "data.resolution=16", "--cfg", "job", "--resolve")
    (tmp_path / "config.yaml").write_text(saved.out)
    composed = command("experiment=reward", f"init={tmp_path}", "matcher=m", "data.batch_size=8", "--cfg", "job")
    assert composed.code == 0, composed.err
    own, config = OmegaConf.create(saved.out), OmegaConf.create(composed.out)
    assert config.objective.generator == OmegaConf.select(own, f"objective.{place}")
    assert config.text == own.text
    assert config.data == OmegaConf.merge(own.data, {"batch_size": 8})
    assert (config.init, config.objective.reward.matcher) == (str(tmp_path), "m")
    judge = {"_target_": "trainer.backbones.effnet_lite.load", "resolution": 64}
    with pytest.raises(UserError, match="taught a network of this run"):
        require_untaught(judge, OmegaConf.to_container(config), "")


def test_a_reward_begins_with_weights_of_the_box(command, tmp_path, monkeypatch):
    composed = command("experiment=reward", "init=emoji", "matcher=m", "--cfg", "job")
    assert composed.code == 0, composed.err
    config = OmegaConf.create(composed.out)
    assert Path(config.text.encoder.path).is_file() and Path(config.init) == BOX / "emoji"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emoji").mkdir()  # what is here by that name comes first
    refused = command("experiment=reward", "init=emoji", "matcher=m")
    assert refused.code == 2
    assert "init=emoji: expected the config.yaml of a run" in refused.err
