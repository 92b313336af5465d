"""LeCam against its equation and the moving averages that it is drawn to."""

import torch

from trainer.losses.lecam import LeCam


def test_logits_are_drawn_to_the_averages_of_the_other_kind():
    torch.manual_seed(0)
    lecam, averages = LeCam(decay=0.9), torch.zeros(2)
    for _ in range(5):
        real, fake = torch.randn(4, 3) + 2, torch.randn(4, 3) - 1
        for one, two in zip(real.chunk(2), fake.chunk(2), strict=True):  # micro-batches
            expected = (one - averages[1]).square().mean(1) + (two - averages[0]).square().mean(1)
            torch.testing.assert_close(lecam(one, two), expected)
        lecam.commit()
        averages = 0.9 * averages + 0.1 * torch.stack([real.mean(), fake.mean()])
        torch.testing.assert_close(lecam.averages, averages)
    assert lecam(torch.zeros(2), torch.zeros(2)).shape == (2,)


def test_its_state_is_saved():
    assert list(LeCam().state_dict()) == ["averages"]
