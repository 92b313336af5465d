"""One seed is one image."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from trainer import noise
from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks import dcgan, residual
from trainer.sampling import Sampler, mixed

TOKENS, WIDTH, LATENT = 6, 32, 16


class Text:
    """Random features of each caption; counts how often it is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, captions):
        self.asked += captions
        ids = torch.tensor([sum(map(ord, caption)) for caption in captions])
        tokens = noise.normal(1, "tokens", ids, TOKENS * WIDTH).view(-1, TOKENS, WIDTH)
        return Condition(tokens, torch.arange(TOKENS) < 2 + ids[:, None] % 4, noise.normal(1, "pooled", ids, WIDTH))


class Objective(nn.Module):
    latent_channels = LATENT
    draws_with = ""

    def __init__(self, generator):
        super().__init__()
        self.generator = generator
        self.dropout = nn.Dropout(0.5)
        self.factor = 1.0

    def sample(self, latent, condition):
        return self.dropout(self.generator(latent, condition)) * self.factor

    @contextmanager
    def ema_weights(self):
        self.factor = 0.5
        yield
        self.factor = 1.0


@pytest.fixture(params=[dcgan, residual], ids=["dcgan", "residual"])
def objective(request):
    torch.manual_seed(0)
    generator = request.param.Generator(32, LATENT, WIDTH, nn.Identity(), base_channels=16, max_channels=64)
    for parameter in generator.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)  # else attention, which starts at zero, stays untested
    return Objective(generator)


CAPTIONS = ["a red apple", "a blue car", "two cats"] * 30
SEEDS = list(range(90))


def test_one_seed_is_one_image_bit_for_bit_at_any_batch_size(objective):
    expected = Sampler(objective, Text(), 16)(CAPTIONS, SEEDS)
    assert expected.shape == (90, 3, 32, 32)
    assert expected.dtype == torch.uint8
    assert (expected[0] != expected[3]).any()  # one caption, two seeds
    for batch_size in (1, 3, 48, 64, None):
        assert torch.equal(Sampler(objective, Text(), batch_size)(CAPTIONS, SEEDS), expected)
    sampler = Sampler(objective, Text())
    for chosen in ([0], [88, 4, 17], list(range(89, -1, -1))):  # alone, in other company, in another order
        images = sampler([CAPTIONS[i] for i in chosen], [SEEDS[i] for i in chosen])
        assert torch.equal(images, expected[chosen])


def test_images_are_those_of_the_objective_in_eval_mode_with_averaged_weights(objective):
    text, sampler = Text(), Sampler(objective, Text())
    images = sampler(CAPTIONS[:16], SEEDS[:16])
    assert objective.training
    assert objective.dropout.training
    assert objective.factor == 1
    latent = noise.normal(0, "sample", torch.arange(16), LATENT)
    with torch.no_grad():
        drawn = objective.generator(latent, text(CAPTIONS[:16])) * 0.5
    assert (images.float() - (drawn + 1) * 127.5).abs().max() <= 0.5 + 1e-3


def test_modes_come_back_also_for_parts_that_were_in_eval(objective):
    objective.generator.eval()
    Sampler(objective, Text())(CAPTIONS[:1], [0])
    assert objective.training
    assert not objective.generator.training


def test_a_caption_is_encoded_once(objective):
    text = Text()
    sampler = Sampler(objective, text)
    sampler(CAPTIONS, SEEDS)
    sampler(CAPTIONS[:2], [1, 2])
    assert sorted(text.asked) == sorted(CAPTIONS[:3])


def test_seeds_are_any_int64(objective):
    seeds = [-1, 2**62, 0]
    images = Sampler(objective, Text())(["a red apple"] * 3, seeds)
    assert len({bytes(image.numpy().tobytes()) for image in images}) == 3


def test_bad_input_is_told(objective):
    with pytest.raises(UserError, match="2 captions and 1 seeds"):
        Sampler(objective, Text())(["a", "b"], [1])
    with pytest.raises(UserError, match="at least one"):
        Sampler(objective, Text())([], [])
    with pytest.raises(UserError, match="batch_size=0"):
        Sampler(objective, Text(), 0)


def test_latents_and_conditions_of_seeds_and_captions_draw_the_same_images(objective):
    sampler = Sampler(objective, Text())
    latents, condition = sampler.latents(SEEDS), sampler.conditions(CAPTIONS)
    assert latents.shape == (90, LATENT)
    assert torch.equal(sampler.draw(latents, condition), sampler(CAPTIONS, SEEDS))
    alone = sampler.draw(latents[41:42], condition.rows(slice(41, 42)))
    assert torch.equal(alone, sampler(CAPTIONS[41:42], [41]))
    with pytest.raises(UserError, match="90 latents and 3 conditions"):
        sampler.draw(latents, condition.rows(slice(3)))


def test_captions_mix_by_weight_and_tokens_count_where_one_has_them():
    condition = Text()(CAPTIONS[:2])
    assert not torch.equal(condition.mask[0], condition.mask[1])
    between = mixed(condition, torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.0, 1.0]]))
    assert torch.equal(between.mask, torch.stack([condition.mask[0], condition.mask.any(0), condition.mask[1]]))
    assert torch.equal(between.pooled[[0, 2]], condition.pooled)
    assert torch.allclose(between.pooled[1], 0.25 * condition.pooled[0] + 0.75 * condition.pooled[1])
    tokens = condition.tokens * condition.mask[..., None]  # what is no token has no say
    assert torch.equal(between.tokens[[0, 2]], tokens)
    assert torch.allclose(between.tokens[1], 0.25 * tokens[0] + 0.75 * tokens[1])


def test_token_ids_do_not_mix():
    ids = Condition(torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 0))
    with pytest.raises(UserError, match="do not mix; train with text=minilm"):
        mixed(ids, torch.eye(2))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_small_batch_is_drawn_small_and_without_pads_of_no_use(objective, frozen, threads):
    """Convolutions see the rows that are asked for, up to a layer or two that would round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        sampler = Sampler(objective.eval().requires_grad_(not frozen), Text())
        latents = sampler.latents(range(16))
        condition = sampler.conditions(CAPTIONS[:16])
        pads = torch.zeros(16, 24 - TOKENS, WIDTH)
        condition = Condition(
            torch.cat([condition.tokens, pads], 1), torch.cat([condition.mask, pads[..., 0] > 0], 1), condition.pooled
        )
        expected = sampler.draw(latents, condition)
        for count in (1, 2, 3, 8):
            for _ in range(2):  # the first time is drawn in full
                seen = []
                hook = objective.generator.register_forward_hook(
                    lambda m, given, out, seen=seen: seen.append((len(out), given[1].mask.shape[1]))
                )
                assert torch.equal(sampler.draw(latents[:count], condition.rows(slice(count))), expected[:count])
                hook.remove()
            assert seen == [({1: 1, 2: 2, 3: 4, 8: 8}[count], 16)]
    finally:
        torch.set_num_threads(before)


def test_captions_of_other_lengths_beside_it_change_no_image(objective):
    """More than 16 tokens are not cut to 16: long captions are drawn together, and each image goes where it belongs."""
    ids = torch.arange(40)
    tokens = noise.normal(1, "tokens", ids, 24 * WIDTH).view(-1, 24, WIDTH)
    mask = torch.arange(24) < torch.where(ids % 3 == 0, 20, 5)[:, None]
    condition = Condition(tokens, mask, noise.normal(1, "pooled", ids, WIDTH))
    sampler = Sampler(objective.eval(), Text())
    latents, seen = sampler.latents(range(40)), []
    hook = objective.generator.register_forward_hook(lambda m, given, out: seen.append(given[1].mask.shape[1]))
    images = sampler.draw(latents, condition)
    hook.remove()
    assert seen[0] == 24  # what is learnt from
    assert seen.count(16) >= 1
    for i in (0, 1, 20, 39):
        assert torch.equal(sampler.draw(latents[[i]], condition.rows([i])), images[[i]])


def test_fixed_batches_have_one_size(objective):
    sampler, seen = Sampler(objective.eval(), Text(), 3, fixed=True), []
    objective.generator.register_forward_hook(lambda m, given, out: seen.append(len(out)))
    images = sampler(CAPTIONS[:7], SEEDS[:7])
    assert seen == [3, 3, 3]
    assert (images.int() - Sampler(objective, Text())(CAPTIONS[:7], SEEDS[:7]).int()).abs().max() <= 1


def test_a_training_network_sees_full_batches_alone(objective):
    seen = []
    objective.generator.register_forward_hook(lambda m, given, out: seen.append(len(out)))
    Sampler(objective.train(), Text(), 5)(CAPTIONS[:20], SEEDS[:20])
    assert seen == [16, 16]


def weights_scaled(network):
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1.25)


def weights_trained(network):
    optimizer = torch.optim.Adam(network.requires_grad_().parameters(), 0.01, fused=True)
    for weight in network.parameters():
        weight.grad = weight.detach().sign()
    optimizer.step()


def weights_loaded(network):
    network.load_state_dict({key: 1.25 * weight for key, weight in network.state_dict().items()})


def weights_replaced(network):
    for module in network.modules():
        for name, weight in [*module.named_parameters(recurse=False)]:
            setattr(module, name, nn.Parameter(1.25 * weight.detach()))


@pytest.mark.parametrize("change", [weights_scaled, weights_trained, weights_loaded, weights_replaced])
def test_images_are_those_of_the_weights_as_they_are_now(objective, change):
    sampler = Sampler(objective.eval().requires_grad_(False), Text())
    before = [sampler(CAPTIONS[:2], SEEDS[:2]) for _ in range(2)]
    change(objective.generator)
    images = [sampler(CAPTIONS[:2], SEEDS[:2]) for _ in range(3)]
    expected = Sampler(objective, Text())(CAPTIONS[:2], SEEDS[:2])
    assert all(torch.equal(each, expected) for each in images)
    assert torch.equal(*before) and not torch.equal(before[0], expected)
