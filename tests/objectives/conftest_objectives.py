"""Tiny objectives on random batches, run by the real Trainer."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from trainer.batch import Batch, Condition
from trainer.losses.adversarial import Hinge, LeastSquares, NonSaturating, Relativistic
from trainer.losses.perceptual import Perceptual
from trainer.losses.reconstruction import gaussian_nll, l2
from trainer.networks import attngan, dcgan, multiscale, progressive, stylegan2, transformer, unet
from trainer.networks.autoencoder import Autoencoder
from trainer.networks.captioner import Captioner
from trainer.networks.latent_generator import LatentGenerator
from trainer.networks.matching import ImageEncoder, Matcher, TextEncoder
from trainer.networks.patch import Discriminator as PatchDiscriminator
from trainer.networks.prior import Prior
from trainer.networks.quantizers import FSQ
from trainer.networks.token_generators import Autoregressive, Parallel
from trainer.networks.tokenizer import Decoder, Encoder, Tokenizer
from trainer.networks.translators import Both
from trainer.networks.varied_captioner import VariedCaptioner
from trainer.networks.worded import WordedGenerator
from trainer.objectives import schedules
from trainer.objectives.attngan import AttnGAN
from trainer.objectives.captioning import Captioning
from trainer.objectives.captioning_vae import CaptioningVAE
from trainer.objectives.cyclegan import CycleGAN
from trainer.objectives.gan import GAN
from trainer.objectives.latents import LatentGAN
from trainer.objectives.matching import DualEncoder
from trainer.objectives.policy import PolicyGradient
from trainer.objectives.priors import DallE, MaskGIT
from trainer.objectives.progressive import Progressive
from trainer.objectives.restoration import Restoration
from trainer.objectives.reward import RewardTuning
from trainer.objectives.stylegan2 import StyleGAN2
from trainer.objectives.text_distillation import TextDistillation
from trainer.objectives.textgan import TextGAN
from trainer.objectives.tokenizer import Autoencoding
from trainer.objectives.vae import VAE
from trainer.objectives.vae_gan import VAEGAN
from trainer.objectives.vqgan import VQGAN
from trainer.size import Size
from trainer.strategies.single import Single
from trainer.tasks.inpainting import Inpainting
from trainer.tasks.translation import Translation
from trainer.text.scratch import TextTransformer

TEXT, LATENT, RESOLUTION, WORDS = 12, 6, 16, 20
CHANNELS = {"base_channels": 4, "max_channels": 8}
SIZES = {"resolution": RESOLUTION, "text_channels": TEXT, **CHANNELS}


def features_of(captions):
    """A Condition of random features, the same wherever a caption has as many letters."""
    draws = [torch.Generator().manual_seed(len(caption)) for caption in captions]
    rows = [torch.randn(6, TEXT, generator=draw) for draw in draws]
    mask = torch.ones(len(captions), 5, dtype=torch.bool)
    return Condition(torch.stack([row[:5] for row in rows]), mask, torch.stack([row[5] for row in rows]))


def random_batch(size=8, start=0, resolution=RESOLUTION):
    draw = torch.Generator().manual_seed(start)
    condition = Condition(
        torch.randn(size, 5, TEXT, generator=draw),
        torch.arange(5)[None] < torch.randint(1, 6, (size, 1), generator=draw),
        torch.randn(size, TEXT, generator=draw),
    )
    image = torch.randint(0, 256, (size, *Size.of(resolution), 3), generator=draw, dtype=torch.uint8)
    return Batch(image.permute(0, 3, 1, 2), condition, torch.arange(size) + start, torch.arange(size) + start)


def paired_batch(size=8, start=0, resolution=RESOLUTION):
    """A batch of a translation: other pictures, with other captions, are the sources."""
    batch, other = random_batch(size, start, resolution), random_batch(size, 500 + start, resolution)
    return replace(batch, other=replace(other, position=batch.position))


def loop_arguments(networks, **changes):
    optimizer = partial(torch.optim.Adam, lr=1e-2, betas=(0.0, 0.9))
    return {"optimizer": dict.fromkeys(networks, optimizer), "schedule": schedules.constant, "seed": 0} | changes


class Reader(nn.Module):
    """A text network as `text=scratch` has one: it takes and returns a Condition, and has a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.randn(5, TEXT) / 4)
        self.words = nn.Sequential(nn.Linear(TEXT, TEXT), nn.LayerNorm(TEXT), nn.SiLU(), nn.Linear(TEXT, TEXT))

    def forward(self, condition):
        tokens = condition.tokens + self.positions
        return condition._replace(tokens=tokens + self.words(tokens))


def make_gan(loss=None, optimizer=None, text=nn.Identity, patches=0, **changes):
    torch.manual_seed(0)
    generator = dcgan.Generator(latent_channels=LATENT, text=text(), style_channels=16, **SIZES)
    discriminator = dcgan.Discriminator(text=text(), head_channels=16, patches=patches, **SIZES)
    keys = ("schedule", "clip", "accumulate", "seed")
    loop = loop_arguments(("generator", "discriminator"), **{k: changes.pop(k) for k in keys if k in changes})
    if optimizer:
        loop["optimizer"] = dict.fromkeys(loop["optimizer"], optimizer)
    return GAN(generator, discriminator, loss or NonSaturating(), **changes, **loop)


def players(family, text=nn.Identity, optimizer=None, **changes):
    """Networks of a family and, of `changes`, what the loop takes."""
    torch.manual_seed(0)
    options = changes.pop("networks", {})
    of_generator, sizes = options.pop("generator", {}), SIZES | {"resolution": options.pop("resolution", RESOLUTION)}
    generator = family.Generator(latent_channels=LATENT, text=text(), style_channels=16, **sizes, **of_generator)
    discriminator = family.Discriminator(text=text(), head_channels=16, **sizes, **options)
    keys = ("schedule", "clip", "accumulate", "seed")
    loop = loop_arguments(("generator", "discriminator"), **{k: changes.pop(k) for k in keys if k in changes})
    if optimizer:
        loop["optimizer"] = dict.fromkeys(loop["optimizer"], optimizer)
    changes.setdefault("loss", NonSaturating())
    return {"generator": generator, "discriminator": discriminator, **changes, **loop}


def make_restoration(optimizer=None, task=None, generator=None, **changes):
    """A U-Net that fills holes."""
    torch.manual_seed(0)
    task = task or Inpainting()
    sizes = {"base_channels": 4, "max_channels": 8, "style_channels": 8}
    generator = generator or unet.Generator(task, RESOLUTION, LATENT, TEXT, nn.Identity(), **sizes)
    judge = dcgan.Discriminator(text=nn.Identity(), head_channels=16, patches=1, **SIZES)
    discriminator = changes.pop("discriminator", judge)
    networks = ("generator", "discriminator")
    loop = {"optimizer": dict.fromkeys(networks, optimizer)} if optimizer else {}
    keys = ("schedule", "clip", "accumulate", "seed")
    loop |= {k: changes.pop(k) for k in keys if k in changes}
    changes = {"reconstruction": l2, "loss": NonSaturating(), **changes}
    return Restoration(generator=generator, discriminator=discriminator, **changes, **loop_arguments(networks, **loop))


def make_translation(optimizer=None, **changes):
    """A U-Net that learns from pairs, before a discriminator that sees them."""
    torch.manual_seed(0)
    judge = multiscale.Discriminator(RESOLUTION, TEXT, nn.Identity(), 6, num_scales=2, num_downs=1, **CHANNELS)
    changes = {"sees_source": True, "discriminator": judge, **changes}
    return make_restoration(optimizer, Translation(), **changes)


def make_cyclegan(optimizer=None, **changes):
    torch.manual_seed(0)
    task, sizes = Translation(), {**CHANNELS, "style_channels": 8}
    generators = [unet.Generator(task, RESOLUTION, LATENT, TEXT, nn.Identity(), **sizes) for _ in range(2)]
    judges = [multiscale.Discriminator(RESOLUTION, TEXT, nn.Identity(), num_downs=1, **CHANNELS) for _ in range(2)]
    networks = ("generator", "discriminator")
    loop = {"optimizer": dict.fromkeys(networks, optimizer)} if optimizer else {}
    keys = ("schedule", "clip", "accumulate", "seed")
    loop |= {k: changes.pop(k) for k in keys if k in changes}
    changes = {"loss": LeastSquares(), "history": 16, **changes}
    return CycleGAN(Both(*generators), Both(*judges), **changes, **loop_arguments(networks, **loop))


class Pieces:
    """A tokenizer of words of one letter: its id is its place in the alphabet, 0 ends a caption."""

    vocabulary, end = WORDS, 0

    def __call__(self, captions):
        rows = [[ord(letter) - 96 for letter in caption][:4] for caption in captions]
        ids = torch.tensor([[*row, *[0] * (5 - len(row))] for row in rows])
        mask = torch.arange(5)[None] <= torch.tensor([len(row) for row in rows])[:, None]
        return Condition(ids, mask, torch.empty(len(rows), 0))

    def texts(self, ids):
        return ["".join(chr(96 + i) for i in row[: row.index(0)] if i) if 0 in row else "" for row in ids]


def captioned_batch(size=8, start=0):
    """Images whose brightness is the first letter of their captions, and that of the other half the second."""
    letters = (torch.arange(size) + start) % 3, (torch.arange(size) + start) // 3 % 3
    image = torch.zeros(size, 3, RESOLUTION, RESOLUTION, dtype=torch.uint8)
    image[:, :, :8], image[:, :, 8:] = (80 * each.view(-1, 1, 1, 1) for each in letters)
    captions = ["abc"[a] + "def"[b] for a, b in zip(*letters, strict=True)]
    place = torch.arange(size) + start
    return Batch(image, Pieces()(captions), place, place), captions


def make_captioner(network=Captioner, **options):
    torch.manual_seed(0)
    captioner = network(RESOLUTION, WORDS, 5, 4, 8, word_channels=8, width=16, num_layers=2, num_heads=2, **options)
    captioner.learn(torch.arange(10))
    return captioner


def make_captioning(optimizer=None, kind=None, network=None, **changes):
    loop = {"optimizer": {"captioner": optimizer}} if optimizer else {}
    keys = ("schedule", "clip", "accumulate", "seed")
    loop |= {k: changes.pop(k) for k in keys if k in changes}
    return (kind or GivenCaptions)(
        network or make_captioner(), **changes, **loop_arguments(("captioner",), **loop)
    )


def make_captioning_vae(optimizer=None, **changes):
    """With a latent of three values."""
    network = make_captioner(VariedCaptioner, latent_channels=3)
    return make_captioning(optimizer, GivenVariedCaptions, network, **changes)


class Given:
    """Learns captions of a table in place of those of a data module."""

    def on_fit_start(self):
        pass

    def on_host(self, batch):
        return batch if batch.condition.tokens.dim() == 2 else captioned(batch)

    def captioner_loss(self, batch):
        return super().captioner_loss(batch if batch.condition.tokens.dim() == 2 else captioned(batch))


class GivenCaptions(Given, Captioning):
    pass


class GivenVariedCaptions(Given, CaptioningVAE):
    pass


def captioned(batch):
    """A batch of `random_batch` with captions of its positions."""
    ids = 1 + (batch.position[:, None] * torch.tensor([1, 3, 5, 7, 2])) % 9
    mask = torch.arange(5)[None] <= batch.position[:, None] % 4
    return replace(batch, condition=Condition(ids * mask, mask, batch.condition.pooled[:, :0]))


class GivenTextGAN(Given, TextGAN):
    """Reads captions of positions, as `captioned` makes them."""

    def sample(self, latent, condition):
        place = torch.arange(len(latent))
        given = Batch(latent, condition, place, place)
        return super().sample(latent, condition if condition.tokens.dim() == 2 else captioned(given).condition)


def make_textgan(optimizer=None, **changes):
    def text():
        return TextTransformer(TEXT, num_layers=1, num_heads=2, vocabulary=WORDS, max_tokens=5, channels=8)

    torch.manual_seed(0)
    generator = dcgan.Generator(latent_channels=LATENT, text=text(), style_channels=16, **SIZES)
    discriminator = dcgan.Discriminator(text=text(), head_channels=16, **SIZES)
    networks = ("generator", "discriminator", "captioner")
    keys = ("schedule", "clip", "accumulate", "seed")
    loop = loop_arguments(networks, **{k: changes.pop(k) for k in keys if k in changes})
    if optimizer:
        loop["optimizer"] = dict.fromkeys(networks, optimizer)
    players = {"generator": generator, "discriminator": discriminator, "captioner": make_captioner()}
    return GivenTextGAN(**players, loss=changes.pop("loss", NonSaturating()), **changes, **loop)


def make_stylegan2(optimizer=None, text=nn.Identity, group=4, **changes):
    networks = {"generator": {"noise_up_to": 8}, "group": group}
    return StyleGAN2(**players(stylegan2, text, optimizer, networks=networks, **changes))


def make_attngan(optimizer=None, text=nn.Identity, **changes):
    """At 32 pixels, of two stages."""
    networks = {"generator": {"caption_channels": 4}, "resolution": 32}
    return AttnGAN(**players(attngan, text, optimizer, networks=networks, **changes))


def make_progressive(optimizer=None, text=nn.Identity, phase_kimg=0.04, group=2, **changes):
    """From 8 to 16 pixels: stable for 40 images, faded in over 40."""
    networks = {"group": group}
    return Progressive(**players(progressive, text, optimizer, networks=networks, phase_kimg=phase_kimg, **changes))


def make_vae(optimizer=None, **changes):
    torch.manual_seed(0)
    encoder = dcgan.Encoder(latent_channels=LATENT, text=nn.Identity(), head_channels=16, **SIZES)
    decoder = dcgan.Generator(latent_channels=LATENT, text=nn.Identity(), style_channels=16, **SIZES)
    keys = ("schedule", "clip", "accumulate", "seed")
    loop = loop_arguments(("autoencoder",), **{k: changes.pop(k) for k in keys if k in changes})
    if optimizer:
        loop["optimizer"] = {"autoencoder": optimizer}
    return VAE(Autoencoder(encoder, decoder), changes.pop("reconstruction", gaussian_nll), **changes, **loop)


def make_vae_gan(optimizer=None, **changes):
    autoencoder, discriminator = make_vae().autoencoder, make_gan().discriminator
    networks = ("autoencoder", "discriminator")
    loop = {"optimizer": dict.fromkeys(networks, optimizer)} if optimizer else {}
    keys = ("schedule", "clip", "accumulate", "seed")
    loop |= {k: changes.pop(k) for k in keys if k in changes}
    players = {"autoencoder": autoencoder, "discriminator": discriminator}
    return VAEGAN(**(players | changes), **loop_arguments(networks, **loop))


def make_tokenizer(bottleneck=None, optimizer=None, **changes):
    torch.manual_seed(0)
    encoder, decoder = Encoder(RESOLUTION, 4, 4, 8), Decoder(RESOLUTION, 4, TEXT, nn.Identity(), 4, 8, 16)
    autoencoder = Tokenizer(encoder, bottleneck or FSQ([5, 4, 3]), decoder)
    loop = {"optimizer": {"autoencoder": optimizer}} if optimizer else {}
    return Autoencoding(autoencoder, l2, **loop_arguments(("autoencoder",), **loop, **changes))


def make_token_prior(kind, generator, optimizer=None, **changes):
    """A prior of the codes of `make_tokenizer`, without the run that they would be read from."""
    tokenizer = make_tokenizer().autoencoder
    network = partial(Prior, text_channels=TEXT, text=nn.Identity(), width=16, num_layers=2, num_heads=2)
    loop = {"optimizer": {"prior": optimizer}} if optimizer else {}
    return kind(generator(network, tokenizer), **loop_arguments(("prior",), **loop, **changes))


def make_latent_gan(bottleneck=None, optimizer=None, **changes):
    """In the latents of `make_tokenizer`, without the run that they would be read from; two levels."""
    tokenizer = make_tokenizer(bottleneck).autoencoder
    sizes = {"text_channels": TEXT, "text": nn.Identity(), "width": 8, "depth": 2, "num_heads": 2, "patch": 1}
    latents = partial(transformer.Generator, latent_channels=LATENT, limit=None, levels=2, **sizes)
    discriminator = partial(transformer.Discriminator, levels=2, **sizes)
    loop = {"optimizer": dict.fromkeys(("generator", "discriminator"), optimizer)} if optimizer else {}
    keys = ("schedule", "clip", "accumulate", "seed")
    loop |= {k: changes.pop(k) for k in keys if k in changes}
    return LatentGAN(
        LatentGenerator(latents, tokenizer), discriminator, Relativistic(),
        **changes, **loop_arguments(("generator", "discriminator"), **loop),
    )  # fmt: skip


def make_dalle(**options):
    return make_token_prior(DallE, Autoregressive, **options)


def make_maskgit(**options):
    return make_token_prior(MaskGIT, partial(Parallel, num_steps=3), **options)


def ids_of(batch):
    """A batch of `random_batch` whose captions are ids of words."""
    own = batch.condition
    ids = own.tokens[..., 0].mul(10).long().remainder(WORDS) * own.mask
    return replace(batch, condition=Condition(ids, own.mask, own.pooled[:, :0]))


class Known:
    """`known[(N,) array] -> Condition` of as many captions, of features or of ids, all random."""

    def __init__(self, count, of_ids=False):
        self.count, self.of_ids = count, of_ids

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        one = [random_batch(1, 1000 + int(i) % self.count) for i in index]
        rows = Condition.cat([(ids_of(each) if self.of_ids else each).condition for each in one])
        return rows if self.of_ids else rows._replace(tokens=rows.tokens * rows.mask[..., None])


class GivenText(TextDistillation):
    """Learns of a table in place of the text encoder of a run; 30 captions of the data and 9 others."""

    def on_fit_start(self):
        self.lines, self.ids, self.features = ["other"] * 9, Known(9, of_ids=True), Known(40)

    def on_host(self, batch):
        return super().on_host(replace(ids_of(batch), caption=batch.caption % 30))

    def sample(self, latent, condition):
        if condition.tokens.is_floating_point():
            condition = ids_of(Batch(latent, condition, latent, latent)).condition
        return super().sample(latent, condition)


def make_text_distillation(optimizer=None, **changes):
    generator = make_gan().generator
    torch.manual_seed(4)
    text = TextTransformer(TEXT, num_layers=1, num_heads=2, vocabulary=WORDS, max_tokens=5, channels=8)
    loop = {"optimizer": {"text": optimizer}} if optimizer else {}
    keys = ("schedule", "clip", "accumulate", "seed")
    loop |= {k: changes.pop(k) for k in keys if k in changes}
    return GivenText(WordedGenerator(text, generator), **changes, **loop_arguments(("text",), **loop))


class See(nn.Module):
    """Two maps of an image by fixed weights, as of a frozen backbone."""

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        self.register_buffer("first", torch.randn(6, 3, 3, 3, generator=draw))
        self.register_buffer("second", torch.randn(4, 6, 3, 3, generator=draw))

    def see(self, images):
        first = nn.functional.conv2d(images, self.first, stride=2).tanh() + 2  # far from length 0
        return [first, nn.functional.conv2d(first, self.second, stride=2).tanh() + 2]


def make_vqgan(bottleneck=None, optimizer=None, **changes):
    parent = make_tokenizer(bottleneck)
    networks = ("autoencoder", "discriminator")
    loop = {"optimizer": dict.fromkeys(networks, optimizer)} if optimizer else {}
    keys = ("schedule", "clip", "accumulate", "seed")
    loop |= {k: changes.pop(k) for k in keys if k in changes}
    return VQGAN(
        PatchDiscriminator(2, 4, 8), Hinge(), Perceptual(See), autoencoder=parent.autoencoder, reconstruction=l2,
        **changes, **loop_arguments(networks, **loop),
    )  # fmt: skip


def make_matching(optimizer=None, **changes):
    torch.manual_seed(1)
    matcher = Matcher(ImageEncoder(RESOLUTION, 16, 4, 8), TextEncoder(TEXT, 16, nn.Identity()))
    loop = {"optimizer": {"matcher": optimizer}} if optimizer else {}
    return DualEncoder(matcher, **loop_arguments(("matcher",), **loop, **changes))


def make_taught_gan(*arguments, **changes):
    """A GAN whose generator a frozen matcher teaches, without the checkpoint that it would be read from."""
    gan = make_gan(*arguments, **changes)
    gan.judge = SimpleNamespace(objective=make_matching().requires_grad_(False))
    gan.matcher_weight = 0.5
    return gan


class Brightness:
    """A reward of images that are bright where the numbers of their captions are even, and dark where odd."""

    def prepare(self, data, device):
        pass

    def __call__(self, image, caption):
        return (1 - 2 * (caption % 2)) * image.flatten(1).mean(1)


def make_reward(optimizer=None, generator=None, **changes):
    """A generator of `make_gan`, away from its start, on a leash in features and pixels."""
    generator = generator or make_gan().generator
    loop = {"optimizer": {"generator": optimizer}} if optimizer else {}
    keys = ("schedule", "clip", "accumulate", "seed")
    loop |= {k: changes.pop(k) for k in keys if k in changes}
    changes = {"pixel": 0.1, "perceptual": Perceptual(See), "perceptual_weight": 0.5} | changes
    objective = RewardTuning(generator, Brightness(), **changes, **loop_arguments(("generator",), **loop))
    moved(objective.generator)
    return objective


def make_reward_tokens(optimizer=None, generator=None, **changes):
    """A prior of `make_dalle`, away from its start."""
    generator = generator or make_dalle().generator
    loop = {"optimizer": {"prior": optimizer}} if optimizer else {}
    keys = ("schedule", "clip", "accumulate", "seed")
    loop |= {k: changes.pop(k) for k in keys if k in changes}
    objective = PolicyGradient(generator, Brightness(), **changes, **loop_arguments(("prior",), **loop))
    moved(objective.generator.prior)
    return objective


def moved(network):
    """In place, every weight of it a little."""
    torch.manual_seed(6)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))


def run(objective, batches, ckpt_path=None, **trainer_arguments):
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options |= {"enable_model_summary": False, "use_distributed_sampler": False, "accelerator": "cpu"}
    trainer = pl.Trainer(strategy=Single("cpu"), **(options | trainer_arguments))
    trainer.fit(objective, DataLoader(batches, batch_size=None), ckpt_path=ckpt_path)
    return trainer
