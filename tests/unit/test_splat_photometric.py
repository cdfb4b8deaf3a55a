"""The fused loss against plain torch and scikit-image."""

import numpy as np
import pytest

from backend.geometry.photometric import photometric_loss, psnr


def _pair(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(4)
    y, x = np.mgrid[0:height, 0:width]
    smooth = 0.5 + 0.4 * np.sin(x / 7 + np.arange(4)[:, None, None]) * np.cos(y / 9)
    image = np.clip(smooth + random.normal(0, 0.1, (4, height, width)), 0, 1)
    return image.astype(np.float32), smooth.astype(np.float32)


@pytest.mark.parametrize(("height", "width"), [(9, 31), (64, 64), (150, 97)])
@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradient_equal_plain_torch(height, width, absolute, weighted):
    torch = pytest.importorskip("torch")
    image, target = _pair(height, width)
    x = torch.tensor(image, dtype=torch.float64, requires_grad=True)
    y = torch.tensor(target, dtype=torch.float64)
    window = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    window = torch.outer(window, window) / window.sum() ** 2

    def blur(planes):
        return torch.nn.functional.conv2d(planes[:, None], window[None, None], padding=5)[:, 0]

    a, b = x[:3], y[:3]
    mean_a, mean_b = blur(a), blur(b)
    variance_a, variance_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    ssim = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
    ssim = ssim / ((mean_a**2 + mean_b**2 + 1e-4) * (variance_a + variance_b + 9e-4))
    weights = np.random.default_rng(1).random((height, width), dtype=np.float32) if weighted else None
    each = torch.ones_like(y[0]) if weights is None else torch.tensor(weights, dtype=torch.float64)
    error = (a - b).abs() if absolute else (a - b) ** 2
    loss = (each * error).mean() - 0.2 * (each * ssim).mean() + 0.5 * (each * (x[3] - y[3]) ** 2).mean()
    loss.backward()

    squares, similarity, gradient = photometric_loss(image, target, 0.2, 0.5, weights, absolute=absolute)
    assert squares == pytest.approx(float(((a - b) ** 2).detach().sum()), rel=1e-5)
    assert similarity == pytest.approx(float((each * ssim).detach().mean()), rel=1e-5)
    expected = x.grad.numpy()
    assert np.linalg.norm(gradient - expected) / np.linalg.norm(expected) < 1e-4


def test_ssim_equals_scikit_image_away_from_the_border():
    from skimage.metrics import structural_similarity

    image, target = _pair(60, 60)
    image[:, :12] = image[:, -12:] = image[:, :, :12] = image[:, :, -12:] = 0.5
    target[:, :12] = target[:, -12:] = target[:, :, :12] = target[:, :, -12:] = 0.5
    _, mean, _ = photometric_loss(image, target, 1.0, 0.0)
    values = [
        structural_similarity(
            image[c], target[c], gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            data_range=1.0, full=True,
        )[1]
        for c in range(3)
    ]  # fmt: skip
    inner = np.stack(values)[:, 5:-5, 5:-5]
    # The five outermost rows are flat and equal in both pictures: exactly 1 but for the zero padding.
    expected = (inner.sum() + (3600 - inner[0].size) * 3) / (3 * 3600)
    assert mean == pytest.approx(expected, abs=1e-4)


def test_equal_pictures_have_no_loss_and_no_gradient():
    _, target = _pair(40, 40)
    squares, similarity, gradient = photometric_loss(target, target, 0.2, 1.0)
    assert squares == 0
    assert similarity == pytest.approx(1, abs=1e-6)
    assert np.abs(gradient).max() < 1e-7


def test_a_pixel_of_weight_0_is_free():
    image, target = _pair(30, 30)
    weights = np.ones((30, 30), dtype=np.float32)
    weights[:, :20] = 0
    _, _, gradient = photometric_loss(image, target, 0.2, 1.0, weights)
    # SSIM windows of the pixels that count reach five pixels into the others.
    assert not gradient[:, :, :15].any()
    assert gradient[:3, :, 15:20].any()


def test_psnr_of_a_known_error():
    assert psnr(np.full((4, 4), 0.6), np.full((4, 4), 0.5)) == pytest.approx(20)
