import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from trainer.metrics.similarity import psnr, ssim


def pair(count=3, height=40, width=33, noise=20.0, channels=3):
    rng = np.random.default_rng(0)
    waves = 127 + 100 * np.sin(np.arange(width) / 5 + np.arange(height)[:, None] / 9)
    images = waves + 20 * rng.standard_normal((count, channels, 1, 1)) + 5 * rng.standard_normal((height, width))
    scale = noise * np.arange(1, count + 1).reshape(-1, 1, 1, 1) / count
    noisy = images + scale * rng.standard_normal(images.shape)
    return tuple(torch.from_numpy(x.clip(0, 255).round().astype(np.uint8)) for x in (noisy, images))


def theirs(x, y):
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    return [structural_similarity(a, b, channel_axis=0, **options) for a, b in zip(x.numpy(), y.numpy(), strict=True)]


def test_psnr_equals_scikit_image():
    x, y = pair()
    expected = [peak_signal_noise_ratio(b, a) for a, b in zip(x.numpy(), y.numpy(), strict=True)]
    torch.testing.assert_close(psnr(x, y), torch.tensor(expected, dtype=torch.float64))


def test_psnr_in_closed_form():
    x = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    assert psnr(x, x + 5).tolist() == pytest.approx([20 * np.log10(51)] * 2)
    assert psnr(x, x).tolist() == [np.inf] * 2


@pytest.mark.parametrize("noise", [2.0, 20.0, 100.0])
def test_ssim_equals_scikit_image(noise):
    x, y = pair(noise=noise)
    assert ssim(x, y).tolist() == pytest.approx(theirs(x, y), rel=1e-9)


def test_ssim_equals_torchmetrics():
    """Its own mean takes in windows that stick out, filled by reflection: those are cut off here."""
    x, y = pair()
    options = {"data_range": 255.0, "reduction": "none", "return_full_image": True}
    _, windows = structural_similarity_index_measure(x.double(), y.double(), **options)
    torch.testing.assert_close(ssim(x, y), windows[..., 5:-5, 5:-5].mean((1, 2, 3)), rtol=1e-9, atol=0)


def test_ssim_of_flat_images():
    """Without variance it is (2 x y + C1) / (x^2 + y^2 + C1); of an image with itself 1."""
    x, y = (torch.full((1, 3, 11, 11), value, dtype=torch.uint8) for value in (100, 50))
    assert ssim(x, y).item() == pytest.approx((2 * 100 * 50 + 2.55**2) / (100**2 + 50**2 + 2.55**2), rel=1e-9)
    assert ssim(*pair()[:1] * 2).tolist() == pytest.approx([1] * 3)


def test_more_images_than_are_taken_at_once():
    x, y = pair(count=35, height=12, width=12)
    torch.testing.assert_close(ssim(x, y), torch.cat([ssim(x[i : i + 1], y[i : i + 1]) for i in range(35)]))


def test_refusals():
    x, y = pair(height=10)
    with pytest.raises(ValueError, match="11 x 11: got images of \\(10, 33\\)"):
        ssim(x, y)
    with pytest.raises(ValueError, match="uint8"):
        psnr(x.float(), y)
    with pytest.raises(ValueError, match="one shape"):
        psnr(x, y[:1])
