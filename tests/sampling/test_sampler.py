"""One seed is one image: to the bit where a machine's kernels keep it cheaply, else to a grey level."""

from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch
from torch import nn

from trainer import noise
from trainer.batch import Condition
from trainer.errors import UserError
from trainer.exports.drawing import Drawing
from trainer.networks import dcgan, residual, stylegan2, transformer
from trainer.sampling import runtime
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.sampler import Sampler

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
    draws_with = ""

    def __init__(self, generator):
        super().__init__()
        self.generator, self.latent_channels = generator, generator.latent_channels
        self.dropout = nn.Dropout(0.5)
        self.factor = 1.0

    def sample(self, latent, condition):
        return self.dropout(self.generator(latent, condition)) * self.factor

    @contextmanager
    def ema_weights(self):
        self.factor = 0.5
        yield
        self.factor = 1.0


SIZES = {
    dcgan: {"base_channels": 16, "max_channels": 64},
    residual: {"base_channels": 16, "max_channels": 64},
    stylegan2: {"base_channels": 16, "max_channels": 64},
    transformer: {"width": 48, "depth": 2},
}


@pytest.fixture(params=SIZES, ids=["dcgan", "residual", "stylegan2", "transformer"])
def objective(request):
    torch.manual_seed(0)
    generator = request.param.Generator(32, LATENT, WIDTH, nn.Identity(), **SIZES[request.param])
    for parameter in generator.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)  # else attention, which starts at zero, stays untested
    return Objective(generator)


CAPTIONS = ["a red apple", "a blue car", "two cats"] * 30
SEEDS = list(range(90))


def same(images, expected, exact):
    """By the promise: which of the two holds is the machine's business."""
    return torch.equal(images, expected) if exact else (images.int() - expected.int()).abs().max() <= 1


def test_one_seed_is_one_image_at_any_batch_size(objective):
    objective.eval()
    expected = Sampler(objective, Text(), 16)(CAPTIONS, SEEDS)
    assert expected.shape == (90, 3, 32, 32)
    assert expected.dtype == torch.uint8
    assert (expected[0] != expected[3]).any()  # one caption, two seeds
    for batch_size in (1, 48, 64):
        sampler = Sampler(objective, Text(), batch_size)
        assert same(sampler(CAPTIONS, SEEDS), expected, sampler.exact)
    sampler = Sampler(objective, Text())
    for chosen in ([0], [88, 4, 17], list(range(89, -1, -1))):  # alone, in other company, in another order
        images = sampler([CAPTIONS[i] for i in chosen], [SEEDS[i] for i in chosen])
        assert same(images, expected[chosen], sampler.exact)


def test_images_are_those_of_the_objective_in_eval_mode_with_averaged_weights(objective):
    text, sampler = Text(), Sampler(objective, Text())
    images = sampler(CAPTIONS[:16], SEEDS[:16])
    assert objective.training
    assert objective.dropout.training
    assert objective.factor == 1
    latent = noise.normal(0, "sample", torch.arange(16), objective.latent_channels)
    with torch.no_grad():
        drawn = objective.generator.eval()(latent, text(CAPTIONS[:16])) * 0.5
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
    assert latents.shape == (90, objective.latent_channels)
    assert same(sampler.draw(latents, condition), sampler(CAPTIONS, SEEDS), sampler.exact)
    alone = sampler.draw(latents[41:42], condition.rows(slice(41, 42)))
    assert same(alone, sampler(CAPTIONS[41:42], [41]), sampler.exact)
    with pytest.raises(UserError, match="90 latents and 3 conditions"):
        sampler.draw(latents, condition.rows(slice(3)))


@pytest.mark.parametrize(("frozen", "threads"), [(False, 1), (True, 1), (True, 2)])
def test_a_small_batch_is_drawn_small_and_without_pads_of_no_use(objective, frozen, threads):
    """The network sees the rows that are asked for, on every machine."""
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
        for count in (1, 3, 8):
            for _ in range(2):  # the first time is drawn in full
                seen = []
                hook = objective.generator.register_forward_hook(
                    lambda m, given, out, seen=seen: seen.append((len(out), given[1].mask.shape[1]))
                )
                images = sampler.draw(latents[:count], condition.rows(slice(count)))
                hook.remove()
                assert same(images, expected[:count], sampler._same_bits.exact)
            assert seen == [({1: 1, 3: 4, 8: 8}[count], 16)]
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
        assert same(sampler.draw(latents[[i]], condition.rows([i])), images[[i]], sampler._same_bits.exact)


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


@pytest.fixture
def compiling(objective, monkeypatch):
    """A sampler of a compiled network by its arguments; sizes of the batches that went to what was compiled."""
    seen = []

    def compile(call, **_):
        return lambda *given: seen.append(len(given[0])) or call(*given)

    monkeypatch.setattr(torch, "compile", compile)
    drawing = Drawing(objective.generator).eval().requires_grad_(False)
    drawing.config = {"text": {"caption_dropout": 0.1}}
    runtime.compiled(drawing.generator)
    return lambda *given, **more: Sampler(drawing, Text(), *given, **more), seen


@pytest.mark.skipif(not runtime.has_cpp_compiler(), reason="needs a C++ compiler")
def test_few_images_of_a_compiled_network_wait_for_no_compiler_and_cost_what_they_are(objective, compiling):
    sampler, seen = compiling
    fast, plain = sampler(), Sampler(Drawing(deepcopy(objective.generator)).eval(), Text())
    rows = []
    objective.generator.register_forward_hook(lambda m, given, out: rows.append(len(out)))
    for count, compiled, own in ((1, [], 1), (3, [], 4), (8, [], 8), (9, [16], 16), (20, [16], 4)):
        for _ in range(2):  # the first time is drawn in full
            seen.clear()
            images = fast(CAPTIONS[:count], SEEDS[:count])
            assert (images.int() - plain(CAPTIONS[:count], SEEDS[:count]).int()).abs().max() <= 1
            assert seen == compiled
        assert rows[-1] == own
    assert fast.fixed and not fast.exact
    fast.conditioned(Conditioning(guidance=2.0))(CAPTIONS[:1], [0])
    assert seen == [16], "of the twenty"


class Long(Text):
    """The same with many places beyond the words; "long" has more than 16 of these."""

    def __call__(self, captions):
        found = super().__call__(captions)
        mask = nn.functional.pad(found.mask, (0, 40 - TOKENS))
        if "long" in captions:
            mask[captions.index("long"), :21] = True
        return found._replace(tokens=nn.functional.pad(found.tokens, (0, 0, 0, 40 - TOKENS)), mask=mask)


@pytest.mark.skipif(not runtime.has_cpp_compiler(), reason="needs a C++ compiler")
def test_captions_of_a_compiled_network_are_cut(compiling):
    layouts, drawing = [], compiling[0]().objective
    plain = Sampler(Drawing(deepcopy(drawing.generator)).eval(), Long())
    drawing.generator.register_forward_hook(lambda m, given, out: layouts.append(given[1].tokens))
    short = [f"thing {number}" for number in range(47)]

    def lengths(sampler, captions):
        layouts.clear()
        images = sampler(captions, range(len(captions)))
        assert (images.int() - plain(captions, range(len(captions))).int()).abs().max() <= 1
        assert all(tokens.is_contiguous() for tokens in layouts)
        return [tokens.shape[1] for tokens in layouts]

    assert lengths(Sampler(drawing, Long()), short[:16]) == [16]
    assert lengths(Sampler(drawing, Long()), ["long", *short]) == [16, 16, 32], "those of as many words stand together"
    assert lengths(Sampler(drawing, Long(), fixed=True), short[:16]) == [40]
    kept = Sampler(drawing, Long())
    kept.keep_bits()
    assert lengths(kept, short[:16]) == [40]


@pytest.mark.skipif(not runtime.has_cpp_compiler(), reason="needs a C++ compiler")
def test_few_images_are_compiled_for_where_that_is_asked_for(compiling):
    sampler, seen = compiling
    for given, count in (((1,), 1), ((None, True), 1), ((4,), 3), ((64,), 33)):
        sampler(*given)(CAPTIONS[:count], SEEDS[:count])
    kept = sampler()
    kept.keep_bits()
    kept(CAPTIONS[:2], SEEDS[:2])
    assert seen == [1, 16, 4, 64, 16]


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
    sampler = Sampler(objective, Text())
    expected = sampler(CAPTIONS[:2], SEEDS[:2])
    assert all(same(each, expected, sampler.exact) for each in images)
    assert same(*before, sampler.exact) and not same(before[0], expected, exact=False)


class Kernels(nn.Module):
    """A network whose `layer` and `rest` are off by so much in a batch of fewer rows than they want."""

    latent_channels, draws_with = LATENT, ""

    def __init__(self, layer=1, rest=1, by=1e-4, places=8):
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, 24, 1), Rounds(layer)
        for weight in (*self.wide.parameters(), *self.narrow.parameters()):
            weight.data = weight.sign()  # whole numbers: their sums are the same in any order, on any machine
        self.rest, self.by, self.places, self.seen = rest, by, places, []

    def sample(self, latents, condition):
        self.seen.append(len(latents))
        x = latents[:, :3, None, None].round() * torch.ones(self.places, self.places)
        x = self.narrow(self.wide(x)) / 256
        return (x if len(x) >= self.rest else x + self.by).clamp(-1, 1)

    def ema_weights(self):
        return contextmanager(lambda: (yield))()


class Rounds(nn.Conv2d):
    def __init__(self, rows):
        super().__init__(24, 3, 1)
        self.rows = rows

    def forward(self, x):
        return super().forward(x) + (0 if len(x) >= self.rows else 1 / 256)


@pytest.mark.parametrize(
    ("network", "exact", "seen"),
    [
        ({}, True, 1),
        ({"layer": 16}, False, 1),  # 15 more rows of it are more than a tenth of all
        ({"layer": 16, "places": 1}, True, 1),  # but cost nothing where reading the weights does
        ({"rest": 16}, False, 1),  # no layer: calling one otherwise does not help
        ({"rest": 16, "by": 0.5}, True, 16),  # more than a grey level: drawn in full
    ],
)
def test_which_promise_holds_hangs_on_kernels_and_on_no_clock(monkeypatch, network, exact, seen):
    monkeypatch.setattr("time.perf_counter", None)
    objective = Kernels(**network).eval()
    whole = Sampler(objective, Text())(CAPTIONS[:16], SEEDS[:16])
    sampler = Sampler(objective, Text())
    assert sampler.exact is exact
    alone = sampler(CAPTIONS[:1], SEEDS[:1])
    assert objective.seen[-1] == seen
    assert same(alone, whole[:1], exact)
    assert torch.equal(sampler(CAPTIONS[:1], SEEDS[:1]), alone), "each time"
    sampler.keep_bits()
    assert sampler.exact
    assert torch.equal(sampler(CAPTIONS[:1], SEEDS[:1]), whole[:1])


def test_a_build_without_the_private_operators_draws_the_same(objective, monkeypatch):
    objective.eval().requires_grad_(False)
    expected = Sampler(objective, Text())(CAPTIONS[:2], SEEDS[:2])
    monkeypatch.setattr(torch.ops, "mkldnn", None)
    sampler = Sampler(objective, Text())
    for _ in range(2):
        assert same(sampler(CAPTIONS[:2], SEEDS[:2]), expected, sampler.exact)
    assert None not in [way.forwards for way in sampler._same_bits.known.values()]


def test_fixed_batches_promise_no_bits_at_another_size(objective):
    assert not Sampler(objective.eval(), Text(), 3, fixed=True).exact
