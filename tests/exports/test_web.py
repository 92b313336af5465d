"""The page that draws: what is in it, when it is refused, and the images of a prompt and a seed in a real browser."""

import base64
import gzip
import io
import json
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from onnx import load_model_from_string
from PIL import Image

from tests.exports.conftest import TOKENS, TRANSFORMER, WIDTH, made, save_run
from trainer import load
from trainer.errors import UserError
from trainer.exports import web

PIECES = {"_target_": "trainer.text.pieces.Pieces", "name": "minilm", "width": WIDTH, "max_tokens": TOKENS}
IDS = ["input_ids", "attention_mask"]
PROMPTS = ["a red apple", "  A RED Café-apple, it's <b>&amp; 🍎 日本 naïve\t!", "small green circle " * 20, "zyzzyva"]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """node_modules of the working folder, with files of a line each in the place of npm's packages."""
    monkeypatch.chdir(tmp_path)
    for package, name in web.PARTS.values():
        path = tmp_path / "node_modules" / package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"// {name}")
    return tmp_path / "node_modules"


def blobs(page):
    found = re.findall(r'<script type="application/gzip" id="(\w+)">(.*)</script>', page)
    return {name: gzip.decompress(base64.b64decode(content)) for name, content in found}


def test_a_page_has_all_it_needs_inside(run, packages, tmp_path, capsys):
    prompts = "prompts=['a </script><b>red apple']"
    out = made(run, tmp_path / "out", "formats=[web]", prompts)
    page = (out / "index.html").read_text()
    parts = blobs(page)
    assert {*parts} == {*web.PARTS, "model", "tokenizer"}
    assert parts["wasm"] == b"// dist/ort-wasm-simd-threaded.wasm"
    assert [each.name for each in load_model_from_string(parts["model"]).graph.input] == ["latent", *IDS]
    assert parts["tokenizer"] == (out / "tokenizer.json").read_bytes()
    facts = json.loads(re.search(r"^const facts = (.*)$", page, re.M)[1])
    assert facts["prompts"] == ["a </script><b>red apple"]
    assert page.count("</script>") == 1 + len(parts)
    assert (facts["channels"], facts["size"], facts["tokens"], facts["open"]) == (8, [16, 24], TOKENS, True)
    assert not re.findall(r'(?:src|href)="|https?://', re.sub(r"<script.*", "", page)), "nothing comes from elsewhere"
    assert "index.html: " in capsys.readouterr().out
    assert "index.html" in (out / "README.md").read_text()


def test_a_page_that_cannot_be_is_refused(run, run_of_ids, packages, tmp_path):
    with pytest.raises(SystemExit):
        made(run, tmp_path / "out", "formats=[web]", "include_text=false")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("of another model.onnx")
    with pytest.raises(SystemExit):
        made(run_of_ids, tmp_path / "out", "formats=[web]")
    assert not (tmp_path / "out" / "index.html").exists()
    (packages / web.TOKENIZERS / "dist" / "tokenizers.min.mjs").unlink()
    with pytest.raises(UserError, match=r"min.mjs does not exist: npm install @huggingface/tokenizers@latest"):
        web.parts()
    shutil.rmtree(packages)
    with pytest.raises(UserError, match=r"web needs the package onnxruntime-web, .*: npm install onnxruntime-web"):
        web.parts()


@pytest.fixture(scope="module")
def tab():
    """One of Chromium, without a network; NODE_MODULES names the folder of npm's packages where it is in none above."""
    lacking = [] if shutil.which("chromium") else ["chromium, by apt-get install"]
    lacking += [] if find_spec("playwright") else ["playwright, by pip install"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(os.environ.get("NODE_MODULES", ".")).parent)
        try:
            web.parts()
        except UserError as error:
            lacking.append(str(error))
        if lacking:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs {', '.join(lacking)}")
        from playwright.sync_api import sync_playwright

        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            context = browser.new_context(offline=True)
            context.set_default_timeout(120_000)
            yield context.new_page()
            browser.close()


def drawn(tab, page, prompt, seed, count):
    """(count, 3, H, W) uint8 of the images that the page draws, and what it says in the end."""
    tab.goto("about:blank")  # a page whose address differs behind # alone would stay as it is
    tab.goto(f"{page.resolve().as_uri()}#{urlencode({'prompt': prompt, 'seed': seed, 'count': count})}")
    said = tab.wait_for_selector("#status[data-milliseconds]").text_content()
    return pixels(tab), said


def pixels(tab):
    sources = tab.evaluate("[...document.querySelectorAll('#images img')].map(each => each.src)")
    files = [io.BytesIO(base64.b64decode(each.partition(",")[2])) for each in sources]
    return np.stack([np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1) for file in files])


@pytest.mark.browser
@pytest.mark.parametrize("of", ["ids of fixed length", "features of any length"])
def test_a_browser_draws_the_images_of_the_run(of, run, tab, tmp_path):
    prompts = [PROMPTS[0], PROMPTS[2]]  # of words that the tiny encoder knows
    if of == "ids of fixed length":
        prompts, text = PROMPTS, TRANSFORMER | {"vocabulary": 30522}
        run = save_run(tmp_path / "run", "residual", PIECES, text)
    page = made(run, tmp_path / "out", "formats=[web]") / "index.html"
    pipe = load(run)
    for prompt in prompts:
        for seed in (0, -3, 2**40):
            images, said = drawn(tab, page, prompt, seed, 2)
            expected = pipe(prompt, seeds=[seed, seed + 1]).pixels.numpy()
            assert np.ptp(expected) > 100, "images that say something"
            assert np.abs(images.astype(int) - expected).max() <= 1, (prompt, seed)
            assert ("cut" in said) == (prompt == PROMPTS[2])


@pytest.mark.browser
def test_what_is_typed_is_drawn(run, tab, tmp_path):
    page = made(run, tmp_path / "out", "formats=[web]", "prompts=[a red apple, a blue car]") / "index.html"
    pipe = load(run)
    tab.goto("about:blank")
    tab.goto(page.resolve().as_uri())
    for prompt, act in {
        "a red apple": lambda: None,  # the first of its prompts, when it is opened
        "a blue car": lambda: tab.click("#examples button:nth-child(2)"),
        "a green square": lambda: tab.fill("#prompt", "a green square"),
    }.items():
        act()
        tab.wait_for_selector(f"#images img[alt='{prompt}, seed 7']")
        assert np.abs(pixels(tab).astype(int) - pipe(prompt, seeds=range(8)).pixels.numpy()).max() <= 1
    assert tab.evaluate("location.hash") == "#prompt=a+green+square&seed=0&count=8"
    with tab.expect_download() as saved:
        tab.click("#images a:nth-child(2)")
    assert saved.value.suggested_filename == "a-green-square-seed-1.png"
    tab.fill("#prompt", " ")
    tab.press("#prompt", "Enter")
    tab.wait_for_function("() => document.getElementById('status').textContent === 'Type a prompt.'")
