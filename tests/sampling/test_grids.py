"""Grids: every caption whole and readable, every picture with an edge."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.sampling import fonts
from trainer.sampling.grids import grid, wrap, wrapped

WHITE = torch.full((4, 3, 32, 32), 255, dtype=torch.uint8)


def test_captions_that_differ_at_their_end_differ_on_the_sheet():
    """The colour of the background stood behind the ellipsis of a third line."""
    captions = [
        f"a large orange star in the bottom left and a small red circle on a {c} background" for c in ("white", "blue")
    ]
    lines = wrapped(captions, 128)
    assert [" ".join(each) for each in lines] == captions
    sheet = np.array(grid(WHITE[:2], captions, 2))
    assert (sheet[140:, 8:136] != sheet[140:, 144:272]).any()


def test_of_very_long_captions_what_they_share_is_cut():
    long = [f"{'the same words again and again, ' * 30}but at last {end}" for end in ("an apple", "a car")]
    for lines, end in zip(wrapped(long, 128), ("an apple", "a car"), strict=True):
        assert len(lines) <= 12
        assert lines[0].startswith("… ") and " ".join(lines).endswith(end)
    (alone,) = wrapped(["word " * 500], 128)
    assert len(alone) == 12 and alone[-1].endswith(" …")


@pytest.mark.parametrize(
    "text", ["一个红苹果放在桌子上，旁边有一只猫", "x" * 90, "a b c " * 30, "日本語 and English 日本語 mixed"]
)
def test_lines_fit_and_lose_no_letter(text):
    lines = wrap(text, 128, indent=12)
    assert all(fonts.length(line) <= 128 for line in lines) and len(lines) > 1
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_a_white_picture_has_an_edge():
    sheet = np.array(grid(WHITE[:1], [""], 1))
    assert (sheet[8:136, 8:136] == 255).all()
    assert (sheet[7, 7:137] < 255).all() and (sheet[7:137, 136] < 255).all()


def test_seen_and_unseen_captions_are_marked():
    plain, marked = np.array(grid(WHITE[:2], ["a", "a"], 2)), np.array(grid(WHITE[:2], ["a", "a"], 2, [True, False]))
    full, empty = marked[136:152, 8:18], marked[136:152, 144:154]
    assert (full < 128).sum() > (empty < 128).sum() > 0
    assert marked.shape[0] > plain.shape[0] and (marked[plain.shape[0] :] < 128).any()  # the legend


def test_letters_that_the_machine_has_no_font_for_are_told_and_symbols_are_named(monkeypatch, capsys):
    fonts.fitting.cache_clear()
    monkeypatch.setattr(fonts, "files", lambda: [])
    fonts._tell.cache_clear()
    try:
        assert fonts.readable("a 🍎!") == "a [red apple]!"
        assert fonts.readable("苹果") == "苹果" == fonts.readable("苹果")
    finally:
        fonts.fitting.cache_clear()
    err = capsys.readouterr().err
    assert "no font of this machine has cjk letters; install one" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("letter", ["苹", "я", "ت", "한", "あ"])
def test_scripts_are_drawn_where_a_font_has_them(letter):
    font = fonts.fitting(letter)
    if font is None:
        pytest.skip("no font of this machine has it")
    assert bytes(font.getmask(letter)) != bytes(font.getmask("\U0010ffff"))
    [(piece, used)] = fonts.runs(letter)
    assert (piece, used) == (letter, font)
