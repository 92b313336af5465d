"""Planted checkpoints, exports and runs: whatever they name, nothing of it is resolved, and one line says so."""

import json
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hydra.core.config_store import ConfigStore
from safetensors.torch import save_file

from trainer import load
from trainer.config import earlier
from trainer.errors import UserError
from trainer.runs import allowlist, checkpoint
from trainer.runs.run_folder import PLACE

CONF = Path(__file__).parents[2] / "conf"
TAUGHT = ("distill", "dalle", "maskgit", "gat_latents", "reward")  # these need an earlier run
TOUCH = f"{sys.executable} -c \"open('witness', 'w')\""
TARGETS = {  # each would leave the file `witness` behind, or run what would
    "os.system": {"command": TOUCH},
    "os.mkdir": {"path": "witness"},
    "posix.system": {"command": TOUCH},
    "subprocess.run": {"args": TOUCH, "shell": True},
    "subprocess.getoutput": {"cmd": TOUCH},
    "subprocess.check_output": {"args": TOUCH, "shell": True},
    "subprocess.Popen": {"args": TOUCH, "shell": True},
    "pathlib.Path.write_text": {"self": {"_target_": "pathlib.Path", "_args_": ["witness"]}, "data": "x"},
    "pathlib.Path": {"_args_": ["witness"]},
    "builtins.exec": {"_args_": ["open('witness', 'w')"]},
    "builtins.eval": {"_args_": ["open('witness', 'w')"]},
    "builtins.open": {"file": "witness", "mode": "w"},
    "importlib.import_module": {"name": "planted"},
    "runpy.run_path": {"path_name": "planted.py"},
    "shutil.copy": {"src": "planted.py", "dst": "witness"},
    "hydra.utils.get_object": {"path": "planted.x"},
    "torch.hub.load": {"repo_or_dir": ".", "model": "planted", "source": "local"},
    "torch.load": {"f": "planted.pkl", "weights_only": False},
    "torch.nn.modules.module.torch.hub.load": {"repo_or_dir": ".", "model": "planted", "source": "local"},
    "torch.save": {"obj": 1, "f": "witness"},
    "trainer.runs.checkpoint.torch.hub.load": {"repo_or_dir": ".", "model": "planted", "source": "local"},
    "trainer.runs.run_folder.subprocess.run": {"args": TOUCH, "shell": True},
    "trainer.networks.dcgan.nn.modules.module.os.system": {"command": TOUCH},
    "trainer.compression.search.finetune.train": {"arguments": ["--help"]},
    "trainer.runs.export_files.write_settings": {"folder": {"_target_": "pathlib.Path", "_args_": ["."]}, "new": {}},
    "trainer.exports.aot_inductor.Generator": {"path": "planted.pt2", "latent_channels": 8},
    "trainer.loggers.csv.CSV": {"path": "witness"},
    "trainer.sampling.runtime.in_graphs": {"options": {"cpp.cxx": ["planted"]}, "_partial_": True},
    "planted.Network": {},
    "${oc.decode:'os.system'}": {},
}
PLACES = ("objective", "objective.generator.text", "text.encoder", "data.source", "runtime.0")
VERBS = ("sample", "evaluate", "export", "compress", "speed")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with a module that would leave a witness if it were imported."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "planted.py").write_text("open('witness', 'w')\nclass Network: pass\n")
    (folder / "hubconf.py").write_text("open('witness', 'w')\ndef planted(): pass\n")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv(allowlist.VARIABLE, "")
    yield folder
    sys.modules.pop("planted", None)


def plant(config, place, node):
    """`node` at a dotted place of a configuration, within what is there."""
    config.setdefault("data", {"resolution": 16, "_target_": "trainer.data.module.DataModule"})
    config["runtime"] = [{}]
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    for part in path:
        config = config[part]
    config[last] = node


def planted(run, kind, place, node):
    """The newest checkpoint of a run as a stranger could have made it: one file, one a rank, or an export."""
    file = run / "checkpoints" / "kimg000001.500.ckpt"
    content = torch.load(file, weights_only=True)
    content.pop("draws", None)  # so that everybody builds the whole of it
    plant(content["config"], place, node)
    if kind == "ckpt":
        torch.save(content, file)
        return file
    if kind == "sharded":
        file.unlink()
        file.mkdir()
        for rank in range(2):
            torch.save(content, file / f"rank{rank:05}-of-00002.pt")
        return file
    folder = run / "export"
    folder.mkdir()
    save_file(content["state_dict"], folder / "model.safetensors")
    keys = ("images_seen", "global_step", "config")
    (folder / "config.json").write_text(json.dumps({key: content[key] for key in keys}))
    return folder


def files(folder: Path):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("target", TARGETS)
def test_no_target_is_resolved_in_any_place_of_any_file(trained, here, target):
    for kind in ("ckpt", "sharded", "safetensors"):
        for place in PLACES:
            run = here / kind / place
            shutil.copytree(trained, run)
            path = planted(run, kind, place, {"_target_": target, **TARGETS[target]})
            before = files(here)
            with pytest.raises(UserError) as refused:
                checkpoint.load(path)
            line = str(refused.value)
            assert target in line and "refused" in line and "\n" not in line
            assert files(here) == before
    assert "planted" not in sys.modules


@pytest.mark.parametrize("target", TARGETS)
def test_no_target_is_resolved_where_a_network_draws_alone(trained, here, target):
    file = checkpoint.newest(trained)
    content = torch.load(file, weights_only=True)
    for node in ({"_target_": target, **TARGETS[target]}, {"_target_": "torch.nn.Identity", "x": {"_target_": target}}):
        torch.save(content | {"draws": {"with": "generator", "generator": node}}, file)
        before = files(here)
        with pytest.raises(UserError, match="refused") as refused:
            checkpoint.load(file, draws_only=True)
        assert target in str(refused.value) and "\n" not in str(refused.value)
        assert files(here) == before
    assert "planted" not in sys.modules


@pytest.mark.parametrize("told", ["generator", 1, {"with": "generator"}, {"generator": {}}, [], ["with"]], ids=str)
def test_what_draws_is_told_by_nobody_or_as_we_do(trained, told):
    file = checkpoint.newest(trained)
    content = torch.load(file, weights_only=True)
    torch.save(content | {"draws": told}, file)
    if told:
        with pytest.raises(UserError, match="what draws") as refused:
            checkpoint.load(file, draws_only=True)
        assert "\n" not in str(refused.value)
    else:
        assert type(checkpoint.load(file, draws_only=True)).__name__ == "GAN", "as one of before says nothing"


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("place", ["objective", "runtime.0", "data", "text.encoder"])
def test_every_verb_says_it_in_one_line(trained, here, command, verb, place):
    for target in ("pathlib.Path.write_text", "torch.hub.load"):
        path = planted(trained, "ckpt", place, {"_target_": target, **TARGETS[target]})
        before = files(here.parent)
        more = {"sample": ["prompts=[a]"], "export": ["out=exported"]}.get(verb, [])
        done = command(f"checkpoint={path}", *more, main=import_module(f"trainer.{verb}").main)
        assert done.code == 2
        assert f"{target} is no part that may stand here: refused" in done.err and done.err.count("\n") == 1
        assert files(here.parent) == before


@pytest.mark.parametrize("key", ["resume", "init"])
@pytest.mark.parametrize("group", ["objective", "data", "text", "strategy", "trainer", "callbacks", "logger", "hydra"])
def test_a_run_to_go_on_with_is_data(here, command, key, group):
    run = here / "run"
    run.mkdir()
    node = {"name": "x", "kimg": 1, group: {"part": {"_target_": "pathlib.Path.write_text", "data": "x"}}}
    (run / "composed.yaml").write_text(json.dumps(node))
    before = files(here)
    done = command(f"{key}={run}")
    assert done.code == 2 and done.err.count("\n") == 1
    assert "refused" in done.err and group in done.err
    assert files(here) == before


def test_a_teacher_is_data(trained, here, command):
    path = planted(trained, "safetensors", "data.source", {"_target_": "os.system", "command": TOUCH})
    done = command("experiment=distill", f"teacher={path}")
    assert done.code == 2 and "os.system is no part" in done.err and done.err.count("\n") == 1
    assert not (here / "witness").exists()


@pytest.mark.parametrize(
    "text", ["${oc.env:HOME}", "a ${oc.env:HOME} b", "${oc.decode:'1'}", "${oc.create:{a: 1}}", "${${name}:HOME}",
             "${oc${name}.env:HOME}", "${steps:${oc.env:HOME},1}", "${run_dir:'}${oc.env:HOME}'}"]
)  # fmt: skip
def test_what_is_filled_in_from_elsewhere_is_refused(text):
    for is_composed in (True, False):
        with pytest.raises(UserError, match="may not fill that in here: refused"):
            allowlist.check_config({"name": "x", "data": {"source": {"path": text}}}, "FILE", is_composed)
    allowlist.check_config({"name": text}, "FILE")  # nobody fills it in


def test_a_run_keeps_its_own_interpolations(here):
    node = {
        "data": {"seed": "${seed}", "augment": {"x": "${.y}"}},
        "trainer": {"max_steps": "${steps:${kimg},${data.batch_size}}", "default_root_dir": "${run_dir}"},
        "logger": {"csv": {"_target_": "trainer.loggers.csv.CSV", "path": "${run_dir}/metrics.csv"}},
        "name": None,
    }
    assert allowlist.check_config(node, "FILE", is_composed=True) == node
    node["data"]["source"] = {"path": "${oc.env:SCRATCH}/pictures"}
    with pytest.raises(UserError, match=r"allow=\[oc\.env\]"):
        allowlist.check_config(node, "FILE", is_composed=True)
    allowlist.allow("[oc.env]")
    assert allowlist.check_config(node, "FILE", is_composed=True) == node


@pytest.mark.parametrize(
    "logger",
    [
        {"_target_": "trainer.loggers.csv.CSV", "path": "/elsewhere/metrics.csv"},
        {"_target_": "trainer.loggers.csv.CSV", "path": "${run_dir}/../metrics.csv"},
        {"_target_": "trainer.loggers.wandb.WandB", "folder": "${run_dir}", "settings": {"base_url": "http://other"}},
    ],
)
def test_a_run_writes_into_its_own_folder_and_logs_to_the_users_server(logger):
    with pytest.raises(UserError, match=r"FILE: logger\.x"):
        allowlist.check_config({"logger": {"x": logger}}, "FILE", is_composed=True)


@pytest.mark.parametrize("name", ["../elsewhere", "/elsewhere", ".ssh", "x\ntouch witness", "${oc.env:HOME}", ["x"]])
def test_the_name_of_a_run_is_a_name(name):
    with pytest.raises(UserError, match="is no name for a folder"):
        allowlist.check_config({"name": name}, "FILE", is_composed=True)


def test_caches_are_made_where_the_user_has_them_alone(tmp_path):
    node = {"data": {"cache_dir": str(tmp_path)}}
    assert allowlist.check_config(node, "FILE") == {"data": {"cache_dir": None}}
    (tmp_path / "shapes-16px-0").mkdir()
    (tmp_path / "shapes-16px-0" / "heldout.npy").touch()
    assert allowlist.check_config(node, "FILE") == node


def test_what_is_no_plain_data_is_refused():
    with pytest.raises(UserError, match="is no plain data"):
        allowlist.check_config({"objective": {"x": torch.float32}}, "FILE")
    with pytest.raises(UserError, match="is not the name of a part"):
        allowlist.check_config({"objective": {"_target_": ["os.system"]}}, "FILE")
    with pytest.raises(UserError, match="expected one of a training run"):
        allowlist.check_config([], "FILE")


# What the user allows ------------------------------------------------------------------------------------------------


@pytest.fixture
def own(trained, here):
    """A run whose generator is a class of the user's own package."""
    (here / "my_package").mkdir()
    (here / "my_package" / "__init__.py").write_text(
        "import os\nfrom trainer.networks.dcgan import Generator\nclass Network(Generator): pass\n"
    )
    for file in (trained / "checkpoints").iterdir():
        content = torch.load(file, weights_only=True)
        for node in (content["config"]["objective"]["generator"], content["draws"]["generator"]):
            node["_target_"] = "my_package.Network"
        torch.save(content, file)
    yield trained
    sys.modules.pop("my_package", None)


def test_a_package_of_ones_own_is_allowed_by_name(own, here, command, monkeypatch):
    from trainer.sample import main

    arguments = (f"checkpoint={own}", "prompts=[a]", "out=drawn")
    done = command(*arguments, main=main)
    assert done.code == 2 and "only for a package of your own: allow=[my_package]" in done.err
    assert "my_package" not in sys.modules
    done = command(*arguments, "allow=[my_package]", main=main)
    assert done.code == 0, done.err
    monkeypatch.setenv(allowlist.VARIABLE, "my_package")
    assert command(*arguments, main=main).code == 0


def test_load_takes_it_too_and_own_conf_says_it_once_for_all(own, here, monkeypatch):
    with pytest.raises(UserError, match="refused"):
        load(own)
    assert load(own, allow=["my_package"]).step == 30
    monkeypatch.setenv(allowlist.VARIABLE, "")
    (here / "conf").mkdir()
    (here / "conf" / "mine.yaml").write_text("_target_: my_package.Network\n")
    assert load(own).step == 30


def test_a_run_that_is_started_again_builds_what_its_command_names(project, command, monkeypatch):
    monkeypatch.setenv(allowlist.VARIABLE, "")
    monkeypatch.setattr(allowlist._Check, "own", set())  # not because of ./conf
    content = {
        "config": {"objective": {"_target_": "standin.Objective"}},
        "state_dict": {},
        "ema": {},
        "images_seen": 10,
    }
    (project / "run" / "checkpoints").mkdir(parents=True)
    torch.save(content, project / "run" / "checkpoints" / "kimg000000.010.ckpt")
    with pytest.raises(UserError, match=r"allow=\[standin\]"):
        checkpoint.newest("run")
    monkeypatch.setattr("trainer.runs.run_folder.refuse_another", lambda *_: None)
    again = command("experiment=small", "run_dir=run")
    assert "start=10" in again.out, again.err


def test_names_within_an_allowed_package_do_not_lead_out_of_it(own, here):
    allowlist.allow(["my_package"])
    for target in ("my_package.os.system", "my_package.os", "my_package.Network.from_pretrained", "my_package.gone"):
        with pytest.raises(UserError, match=rf"{target}"):
            allowlist.check_config({"objective": {"_target_": target}}, "FILE")
    with pytest.raises(UserError, match=r"my_package\.Generator"):  # defined elsewhere
        allowlist.check_config({"text": {"_target_": "my_package.Generator"}}, "FILE")


def test_the_standard_library_cannot_be_allowed():
    for name in ("os", "subprocess.run", "builtins"):
        with pytest.raises(UserError, match="standard library"):
            allowlist.allow([name])


def test_a_saved_run_allows_nothing(here):
    (here / "composed.yaml").write_text("allow: [planted]\nobjective: {_target_: planted.Network}\n")
    with pytest.raises(UserError, match=r"planted\.Network is no part"):
        earlier.saved_config(here)


def test_of_torch_nn_only_layers_are_parts(here):
    for name in dir(torch.nn):
        part = getattr(torch.nn, name)
        fits = isinstance(part, type) and issubclass(part, torch.nn.Module)
        try:
            allowlist.check_config({"objective": {"_target_": f"torch.nn.{name}"}}, "FILE")
        except UserError:
            assert not fits, name
        else:
            assert fits, name


@pytest.mark.parametrize(
    "experiment",
    [f.stem for f in sorted(CONF.glob("experiment/*.yaml")) if not f.stem.startswith(TAUGHT)],
)
def test_what_the_packages_own_experiments_save_is_read_again(experiment, here):
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from trainer.config import entry

    ConfigStore.instance().store(name="config_schema", node=entry.Training)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for strategy in ("auto", "single", "ddp", "fsdp", "zero2"):
            cfg = compose("config", [f"+experiment={experiment}", f"strategy={strategy}"])
            composed = OmegaConf.to_container(cfg)
            place = {key: composed.pop(key, None) for key in PLACE}
            assert place["allow"] is None
            assert allowlist.check_config(composed, "FILE", is_composed=True) == composed
