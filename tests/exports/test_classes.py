"""Exports of models of classes, and of those that are drawn without a prompt."""

import pytest

from tests.exports.conftest import IDENTITY, WIDTH, save_run
from trainer.export import main as export
from trainer.sample import main as sample
from trainer.sampling.pipeline import load

LABELS = {"_target_": "trainer.text.labels.Labels", "width": WIDTH, "classes": ["cat", "tabby, grey"]}
NOTHING = {"_target_": "trainer.text.labels.Nothing", "width": WIDTH}


@pytest.mark.parametrize(
    ("encoder", "prompt", "said"),
    [(LABELS, "cat", "Draws images of classes"), (NOTHING, "", "Draws images without a prompt")],
)
def test_every_format_is_drawn_from(command, tmp_path, encoder, prompt, said):
    run, out = save_run(tmp_path / "run", "dcgan", encoder, IDENTITY), tmp_path / "out"
    result = command(f"checkpoint={run}", f"out={out}", "formats=[safetensors,onnx]", main=export)
    assert result.code == 0, result.err
    card = (out / "README.md").read_text()
    assert said in card and f'("{prompt}", seeds=range(4))' in card
    hint = f"checkpoint={out}/model.safetensors" + (f" 'prompts=[{prompt}]'" if prompt else "")
    assert f"python -m trainer.sample {hint}\n" in result.out
    drawn = [load(each)(prompt, seeds=range(2)).pixels for each in (run, out, out / "model.onnx")]
    assert (drawn[0] == drawn[1]).all() and (drawn[0].int() - drawn[2].int()).abs().max() <= 1
    words = [f"prompts=[{prompt}]"] if prompt else []
    result = command(f"checkpoint={out / 'model.onnx'}", *words, f"out={tmp_path / 'png'}", main=sample)
    assert result.code == 0 and "1 image" in result.out, result.err


@pytest.mark.parametrize("encoder", [LABELS, NOTHING])
def test_there_is_no_text_encoder_to_include(command, tmp_path, encoder):
    run = save_run(tmp_path / "run", "dcgan", encoder, IDENTITY)
    result = command(
        f"checkpoint={run}", f"out={tmp_path / 'out'}", "formats=[onnx]", "include_text=true", main=export
    )
    assert result.code == 2 and result.err.count("\n") == 1 and "include_text=true" in result.err
