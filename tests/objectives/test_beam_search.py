"""Beam search finds what a search of everything finds, whoever else is asked about."""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from conftest_objectives import Pieces, captioned_batch, make_captioning, make_captioning_vae, run

from trainer.errors import UserError
from trainer.networks.captioner import Captioner
from trainer.sampling.captions import beam_search, captions_of, latents_of

END = 0


def make(length=4):
    torch.manual_seed(3)
    network = Captioner(16, 5, length, 4, 8, word_channels=8, width=16, num_layers=1, num_heads=2).eval()
    with torch.no_grad():
        network.pieces.weight.mul_(3)
        network.bias.weight[:, 0] = torch.tensor([0.5, 0.0, 0.2, -0.3, 0.1])
    return network


def everything(network, image):
    """(mean log probability, ids) of all whole captions, the best first."""
    found = []
    for length in range(1, network.max_tokens + 1):
        for body in product(range(1, 5), repeat=length - 1):
            ids = torch.tensor([[*body, END]])
            padded = torch.nn.functional.pad(ids, (0, network.max_tokens - length))
            logs = network(image, padded).log_softmax(-1)[0, :length].gather(1, ids.T)[:, 0]
            found.append((logs.mean().item(), ids[0].tolist()))
    return sorted(found, reverse=True)


@torch.no_grad()
def test_with_room_for_all_it_finds_the_best_of_all():
    network, images = make(), torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ids, scores = beam_search(network, images, END, beams=400)
    for row, score, image in zip(ids.tolist(), scores.tolist(), images, strict=True):
        best, expected = everything(network, image[None])[0]
        assert score == pytest.approx(best, abs=1e-4)
        assert row[: row.index(END) + 1] == expected


@torch.no_grad()
def test_one_beam_is_greedy_and_company_does_not_matter():
    network, images = make(6), torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    ids, scores = beam_search(network, images, END, beams=1)
    for number in range(4):
        past, last, row = network.begin(images[number : number + 1]), torch.tensor([[5]]), []
        while len(row) < 6 and END not in row:
            logits, past = network.step(last, past)
            last = logits[:, -1].argmax(-1, keepdim=True)
            row.append(int(last))
        assert ids[number].tolist()[: len(row)] == row
        alone, score = beam_search(network, images[number : number + 1], END, beams=3)
        among, its_score = beam_search(network, images, END, beams=3)
        assert score[0] == pytest.approx(its_score[number].item(), abs=1e-5)
        assert among[number].tolist()[: alone.shape[1]] == alone[0].tolist()[: among.shape[1]]
        if END in row:
            assert its_score[number] >= scores[number] - 1e-5


def test_a_captioner_learns_to_say_what_it_sees():
    objective = make_captioning()
    batches = [captioned_batch(9, 9 * i)[0] for i in range(250)]
    run(objective, batches)
    assert objective.logs["captioner/right"] == 1
    batch, captions = captioned_batch(9)
    found = captions_of(objective, Pieces(), batch.image, beams=3, batch_size=4)
    assert [each.text for each in found] == captions
    assert all(-0.3 < each.score <= 0 for each in found)


def test_mistakes_are_told():
    with pytest.raises(UserError, match="beams=0: expected at least 1"):
        beam_search(make(), torch.zeros(1, 3, 16, 16), END, beams=0)
    with pytest.raises(UserError, match="a run of cgan writes no captions"):
        captions_of(SimpleNamespace(config={"name": "cgan"}), Pieces(), torch.zeros(1, 3, 16, 16))


def test_a_captioner_with_a_latent_learns_to_say_one_thing_in_two_ways():
    objective = make_captioning_vae(free_nats=2.0)

    def two_ways(start):
        """Both letters of an image in either order, by a coin that no image knows."""
        batch, captions = captioned_batch(18, start)
        coin = torch.rand(18, generator=torch.Generator().manual_seed(start)) < 0.5
        said = [each[::-1] if flip else each for each, flip in zip(captions, coin.tolist(), strict=True)]
        return replace(batch, condition=Pieces()(said)), captions

    run(objective, [two_ways(18 * i)[0] for i in range(400)])
    batch, captions = two_ways(0)
    several = [captions_of(objective, Pieces(), batch.image, 2, seed=seed) for seed in range(6)]
    texts = [[each.text for each in some] for some in zip(*several, strict=True)]
    right = [text in (caption, caption[::-1]) for some, caption in zip(texts, captions, strict=True) for text in some]
    assert sum(right) / len(right) > 0.95
    assert sum(len({*some}) == 2 for some in texts) / len(texts) > 0.7  # of 6 draws one in 32 would be all alike
    alone = [captions_of(objective, Pieces(), batch.image.flip(0), 2, 5, seed)[::-1] for seed in range(6)]
    assert [[each.text for each in some] for some in alone] == [[each.text for each in some] for some in several]


def test_latents_are_of_the_picture_and_the_seed():
    batch, _ = captioned_batch(9)
    latents = latents_of(batch.image, 0, 3)
    assert latents.unique(dim=0).shape == (9, 3) and not torch.equal(latents, latents_of(batch.image, 1, 3))
    assert torch.equal(latents_of(batch.image[4:6].contiguous(), 0, 3), latents[4:6])
