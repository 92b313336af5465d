"""Ids of a published tokenizer, as the frozen encoder of that name reads them."""

import torch

from trainer.text.pieces import Pieces, Tokens
from trainer.text.pretrained import Pretrained

LONG = "a purple zebra on the moon, which eats strawberries and reads a newspaper all day long, again and again"
CAPTIONS = ["a red apple", "", LONG]


def test_ids_are_those_that_the_frozen_encoder_reads(tmp_path):
    pieces, frozen = Pieces("minilm", 384, 12), Pretrained("minilm", 384, 12)
    _, tokenizer = frozen.parts()
    wanted = tokenizer(CAPTIONS, truncation=True, max_length=12)["input_ids"]
    found = pieces(CAPTIONS)
    assert [row[mask].tolist() for row, mask in zip(found.tokens, found.mask, strict=True)] == wanted
    assert torch.equal(found.mask, frozen(CAPTIONS).mask)
    assert found.tokens.shape == (3, 12) and found.pooled.shape == (3, 0)
    assert pieces.vocabulary == 30522
    for row, caption in enumerate(CAPTIONS):
        alone = pieces([caption])
        assert torch.equal(alone.tokens, found.tokens[[row]]) and torch.equal(alone.mask, found.mask[[row]])
    kept = pieces.prepare(CAPTIONS)
    assert len(kept) == 3
    assert torch.equal(kept[[2, 0]].tokens, found.tokens[[2, 0]])
    pieces.save(tmp_path / "new" / "tokenizer.json")
    again = Tokens(str(tmp_path / "new" / "tokenizer.json"), 12)(CAPTIONS)
    assert torch.equal(again.tokens, found.tokens) and torch.equal(again.mask, found.mask)


def test_words_are_whole_ones_in_letters():
    words = Pieces("minilm", 384, 12).words()
    assert {"the", "apple", "zebra"} <= {*words}
    assert not {"##s", "a", "[CLS]", "1998", "."} & {*words}
    assert words.index("the") < words.index("zebra"), "the frequent ones come first"
