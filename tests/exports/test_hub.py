"""Exports as models of the Hugging Face hub: the mixin's three methods, ids in the place of paths, the model card."""

import json
import shutil
import socket

import pytest
import torch
import yaml
from huggingface_hub import hub_mixin

from trainer import load
from trainer.errors import UserError
from trainer.export import main
from trainer.exports.card import about
from trainer.exports.generator import TrainedGenerator
from trainer.objectives.gan import GAN
from trainer.pretrained import hub
from trainer.runs import checkpoint, results
from trainer.runs.results import Figure


@pytest.fixture
def export(run, tmp_path, command):
    """A folder of weights of a run that was measured at this checkpoint and at another."""
    source = shutil.copytree(run, tmp_path / "run")
    (source / "samples").mkdir()
    (source / "samples" / "latest.png").write_bytes(b"a picture")
    about = {"better": "lower", "kimg": 1.5, "protocol": {"num_images": 123}}
    results.add(source, [Figure("fd_effnet", 41.5, checkpoint="kimg000001.500.ckpt", **about)])
    results.add(source, [Figure("fd_effnet", 99.5, checkpoint="kimg000000.500.ckpt", **about)])
    result = command(f"checkpoint={source}", f"out={tmp_path / 'out'}", "license=cc-by-4.0", main=main)
    assert result.code == 0, result.err
    return tmp_path / "out"


def drawn(path):
    return load(path)("a red apple", seeds=range(3)).pixels


def test_the_mixin_saves_and_loads(run, export, tmp_path):
    drawing = TrainedGenerator.from_pretrained(str(export))
    drawing.save_pretrained(tmp_path / "again")
    assert {file.name for file in (tmp_path / "again").iterdir()} == {
        "README.md", "config.json", "model.safetensors", "samples.png"
    }  # fmt: skip
    assert (tmp_path / "again" / "README.md").read_text() == (export / "README.md").read_text()
    assert torch.equal(drawn(tmp_path / "again"), drawn(run))
    assert torch.equal(drawn(export), drawn(run))
    TrainedGenerator.of(run).save_pretrained(tmp_path / "of a run")
    assert torch.equal(drawn(tmp_path / "of a run"), drawn(run))


def test_what_is_kept_of_the_run(export, run):
    saved = json.loads((export / "config.json").read_text())
    assert saved["config"].keys() == {"name", "text", "data", "objective"}, "no folders, no loggers"
    assert (saved["images_seen"], saved["global_step"]) == (1500, 30)
    assert (export / "model.safetensors").stat().st_size < sum(
        each.numel() * 4 for each in checkpoint.load(run).parameters()
    )


def test_push(export, monkeypatch):
    pushed = {}

    class Api:
        def __init__(self, token):
            pass

        def create_repo(self, repo_id, private, exist_ok):
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id, folder_path, **options):
            pushed.update({file.name: file.read_bytes() for file in folder_path.iterdir()})
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(hub_mixin, "HfApi", Api)
    assert TrainedGenerator.from_pretrained(export).push_to_hub("me/model") == "https://hub/me/model"
    assert pushed["model.safetensors"] == (export / "model.safetensors").read_bytes()
    assert pushed["README.md"] == (export / "README.md").read_bytes()
    assert json.loads(pushed["config.json"]) == json.loads((export / "config.json").read_text())


def test_an_id_is_a_checkpoint(run, export, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda hub_id, **o: asked.append(hub_id) or str(export))
    monkeypatch.chdir(tmp_path)
    assert torch.equal(drawn("me/model"), drawn(run))
    assert torch.equal(drawn("hf:me/model"), drawn(run))
    assert set(asked) == {"me/model"}


def test_the_hub_is_asked_only_for_what_may_be_there(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^me/model is not on this machine and the Hugging Face hub gave none"):
        load("me/model")
    (tmp_path / "outputs").mkdir()
    for path in (
        "outputs/typo",
        "ouputs/typo",
        "output/typo",
        "some/kimg000001.ckpt",
        "./me/model",
        "/me/model",
        "~/model",
        "model",
        "me/model/deep",
        "me /model",
    ):
        with pytest.raises(UserError, match=r"^checkpoint .* does not exist"):
            load(path)


def test_the_card(export):
    card = (export / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    front = yaml.safe_load(front)
    assert (front["license"], front["pipeline_tag"], front["library_name"]) == ("cc-by-4.0", "text-to-image", "trainer")
    assert "pytorch_model_hub_mixin" in front["tags"]
    assert "| fd_effnet | 41.5 | lower | 123 |" in body and "99.5" not in body, "figures of this checkpoint"
    assert "Shapes at 16x24 pixels" in body and "read by minilm, at most 24 tokens" in body
    assert "read by a text encoder inside, at most 24 tokens" in about(load("shapes").config, 1.0)
    assert "![samples](samples.png)" in body and (export / "samples.png").read_bytes() == b"a picture"


def test_the_credit_that_the_data_asks_for(run):
    from trainer.exports import card

    settings = TrainedGenerator.of(run).settings()
    settings["config"]["data"] = {"resolution": 32, "source": {"_target_": "trainer.data.emoji.Emoji"}}
    assert "Twemoji" in card.model_card(settings).text and "CC-BY 4.0" in card.model_card(settings).text
    assert yaml.safe_load(card.model_card(settings).content.split("---\n")[1])["license"] == "unknown"


def test_prompts_are_drawn_for_the_card(run, command, tmp_path):
    from PIL import Image

    result = command(f"checkpoint={run}", f"out={tmp_path}", "prompts=[a red apple, a car]", main=main)
    assert result.code == 0, result.err
    assert Image.open(tmp_path / "samples.png").size[0] > 4 * 128


def test_a_second_export_keeps_the_programs_of_the_first(run, run_of_ids, exports, command, tmp_path):
    shutil.copytree(exports, tmp_path, dirs_exist_ok=True)
    assert command(f"checkpoint={run}", f"out={tmp_path}", main=main).code == 0
    assert json.loads((tmp_path / "config.json").read_text())["programs"].keys() == {"model.onnx", "model.pt2"}
    load(tmp_path / "model.pt2")
    assert command(f"checkpoint={run_of_ids}", f"out={tmp_path}", main=main).code == 0
    assert "programs" not in json.loads((tmp_path / "config.json").read_text()), "those were of another model"
    with pytest.raises(UserError, match="does not know it"):
        load(tmp_path / "model.pt2")


def test_a_program_is_no_source_of_weights(exports, command, tmp_path):
    result = command(f"checkpoint={exports}", f"out={tmp_path}", main=main)
    assert (result.code, "a program is code, and runs where you name its file" in result.err) == (2, True)
    result = command(f"checkpoint={exports / 'model.onnx'}", f"out={tmp_path}", main=main)
    assert (result.code, "has no weights to take" in result.err) == (2, True)


def test_an_objective_that_draws_nothing_leaves_whole(run, command, tmp_path, monkeypatch):
    objective = checkpoint.load(run)
    monkeypatch.setattr(GAN, "draws_with", "")
    result = command(f"checkpoint={run}", f"out={tmp_path}", "formats=onnx", main=main)
    assert (result.code, "draws no images" in result.err) == (2, True)
    assert command(f"checkpoint={run}", f"out={tmp_path}", main=main).code == 0
    again = checkpoint.load(tmp_path).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in objective.state_dict().items())
    assert again.keys() == objective.state_dict().keys()


def test_a_hub_that_does_not_answer_is_told_within_seconds(monkeypatch, tmp_path):
    """No route but to a place that takes no connections: the client alone tries for longer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: pytest.fail("waited for the hub"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"^me/model is not on this machine .* \(it does not answer\)"):
        load("me/model")
    assert not hub.is_reachable()
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert hub.is_reachable()
