"""The latent of a captioner: gradients, a posterior that reads its image and its whole caption, and no other's."""

import torch

from trainer.networks.varied_captioner import VariedCaptioner

VOCABULARY, LENGTH, LATENT = 12, 6, 3


def make():
    torch.manual_seed(0)
    network = VariedCaptioner(
        16, VOCABULARY, LENGTH, 4, 8, word_channels=8, width=16, num_layers=2, num_heads=2, latent_channels=LATENT
    )
    network.learn(torch.arange(9))
    return network


def given(count=4):
    draw = torch.Generator().manual_seed(1)
    image, ids = torch.randn(count, 3, 16, 16, generator=draw), torch.randint(0, 9, (count, LENGTH), generator=draw)
    return image, ids, torch.arange(LENGTH)[None] < torch.tensor([[6], [3], [5], [1]]), torch.randn(count, LATENT)


def test_every_parameter_gets_a_gradient():
    network = make()
    logits, mean, log_variance = network(*given())
    assert logits.shape == (4, LENGTH, 9) and mean.shape == log_variance.shape == (4, LATENT)
    (logits.square().sum() + mean.square().sum() + log_variance.square().sum()).backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_the_posterior_reads_its_image_and_all_of_its_caption_alone():
    network = make().eval()
    image, ids, mask, _ = given()

    def of(image, ids):
        return torch.stack(network.posterior(network.seen(image), ids, mask))

    changed, other = ids.clone(), image.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 9  # its last piece
    other[2] += 1
    with torch.no_grad():
        plain = of(image, ids)
        by_caption, by_image = (~torch.isclose(plain, each, atol=1e-7).all(-1).all(0) for each in
                                (of(image, changed), of(other, ids)))  # fmt: skip
    assert by_caption.tolist() == [True, False, False, False]
    assert by_image.tolist() == [False, False, True, False]


def test_the_latent_reaches_each_piece_and_begins_as_the_prior():
    network = make().eval()
    image, ids, mask, noise = given()
    with torch.no_grad():
        logits, mean, log_variance = network(image, ids, mask, noise)
        again, *_ = network(image, ids, mask, noise + torch.tensor([[1.0], [0], [0], [0]]))
        moved = ~torch.isclose(logits, again, atol=1e-7).all(-1)
        assert moved[0].all() and not moved[1:].any()
        assert mean.abs().max() < 0.5 and log_variance.abs().max() < 0.5
        middle = network.predicted(ids, network.begin(image))
        assert torch.equal(middle, network.predicted(ids, network.begin(image, torch.zeros(4, LATENT))))
