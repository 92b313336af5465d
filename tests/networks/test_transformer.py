"""The transformer family against the formulas of its papers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks.transformer import Discriminator, Generator
from trainer.networks.vit import Attention, StyledBlock, image_of, patches_of
from trainer.size import Size

TEXT, LATENT = 12, 6
SIZES = {"resolution": 16, "text_channels": TEXT, "width": 16, "depth": 4, "num_heads": 2}


def condition_of(num, length=5):
    mask = torch.arange(length)[None] < torch.arange(1, num + 1).clamp(max=length)[:, None]
    return Condition(torch.randn(num, length, TEXT), mask, torch.randn(num, TEXT))


def make(kind, **sizes):
    torch.manual_seed(0)
    latent = {"latent_channels": LATENT} if kind is Generator else {}
    return kind(text=nn.Identity(), **(SIZES | latent | sizes))


def test_attention_is_softmax_of_query_and_key():
    torch.manual_seed(0)
    attention, x, read = Attention(8, 6, num_heads=2, depth=1), torch.randn(2, 3, 8), torch.randn(2, 5, 6)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    query, key, value = attention.query(x), attention.key(read), attention.value(read)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        score = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(4)
        heads.append(score.masked_fill(~mask[:, None], -torch.inf).softmax(2) @ value[..., part])
    torch.testing.assert_close(attention(x, read, mask), attention.out(torch.cat(heads, 2)))


def test_a_styled_block_adds_three_branches_behind_adaptive_layer_norm():
    torch.manual_seed(0)
    block = StyledBlock(8, style_channels=4, text_channels=6, num_heads=2, depth=3)
    x, style, words, mask = torch.randn(2, 3, 8), torch.randn(2, 4), torch.randn(2, 5, 6), torch.ones(2, 5).bool()
    s = F.linear(style, block.style.weight, block.style.bias)[:, None].split(8, 2)

    def norm(x, scale, shift):
        deviation = (x.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
        return (1 + scale) * (x - x.mean(2, keepdim=True)) / deviation + shift

    expected = x + block.attention(norm(x, s[0], s[1]), norm(x, s[0], s[1]))
    expected = expected + block.words(norm(expected, s[2], s[3]), words, mask)
    expected = expected + block.mlp(norm(expected, s[4], s[5]))
    torch.testing.assert_close(block(x, style, words, mask), expected)


def test_patches_are_squares_in_rows():
    image, tokens = torch.arange(2 * 3 * 8 * 12.0).view(2, 3, 8, 12), Size(2, 3)
    patches = patches_of(image, 4)
    assert patches.shape == (2, 6, 48)
    assert torch.equal(patches[1, 1].view(3, 4, 4), image[1, :, :4, 4:8])
    assert torch.equal(image_of(patches, 4, tokens), image)
    assert image_of(patches, 4, tokens).is_contiguous(memory_format=torch.channels_last)


def test_levels_are_images_on_the_way_and_the_last_is_the_image():
    generator, condition, latent = make(Generator, levels=2).train(), condition_of(3), torch.randn(3, LATENT)
    both = generator(latent, condition, all_levels=True)
    assert generator.behind == [2, 4]
    assert both.shape == (3, 6, 16, 16)
    assert torch.equal(both[:, 3:], generator(latent, condition))
    both[:, :3].sum().backward()
    assert [bool(block.style.weight.grad.any()) for block in generator.blocks] == [True, True, False, False]
    with pytest.raises(UserError, match="levels=5: expected 1 to depth=4"):
        make(Generator, levels=5)


def test_a_class_token_has_a_logit_by_projection():
    discriminator, condition = make(Discriminator, num_logits=3), condition_of(2)
    image = torch.randn(2, 3, 16, 16)
    h, caption = discriminator.features(image)[:, :3], discriminator.caption(condition)
    expected = torch.stack(
        [discriminator.unconditional(h[:, i])[:, 0] + (h[:, i] * caption).sum(1) / 16**0.5 for i in range(3)], 1
    )
    assert expected.shape == (2, 3)
    torch.testing.assert_close(discriminator(image, condition), expected)


def test_sizes_are_checked():
    with pytest.raises(UserError, match="patch=3 at resolution=16"):
        make(Generator, patch=3)
    with pytest.raises(UserError, match="width=16: expected a multiple of num_heads=5"):
        make(Generator, num_heads=5)
