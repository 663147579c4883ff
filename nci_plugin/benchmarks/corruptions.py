"""Corruptions of ImageNet-C (Hendrycks & Dietterich 2019), with its constants, for images of any size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from nci_plugin.checks import PluginError, check_choice, check_known

STRENGTHS: dict[str, tuple[float, ...]] = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),  # standard deviation, as a share of the range 0..255
    "gaussian_blur": (1, 2, 3, 4, 6),  # standard deviation in pixels
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),  # share of the contrast that is kept
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),  # share of the resolution that is kept
}
"""ImageNet-C's constant of each corruption at severities 1..5."""

CORRUPTIONS = tuple(STRENGTHS)
SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(
    image: NDArray[np.uint8], corruption: str, severity: int, generator: np.random.Generator | None = None
) -> NDArray[np.uint8]:
    """Corrupt one image (H, W) or (H, W, C) of uint8 at a severity in 1..5; shape and dtype are kept.

    ``generator`` draws the noise of ``gaussian_noise``, which needs it; the other corruptions are deterministic.
    Raises PluginError on an unknown corruption, another severity, an image of another kind or a missing generator.
    """
    check_known("corruption", corruption, CORRUPTIONS)
    check_choice(f"corruption '{corruption}': severity", severity, SEVERITIES)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size:
        kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise PluginError(
            f"corruption '{corruption}': image must be a uint8 array (H, W) or (H, W, C) that is not empty, got {kind};"
            " convert it with numpy.asarray(image, dtype='uint8')"
        )
    strength = STRENGTHS[corruption][severity - 1]
    if corruption == "pixelate":
        return _pixelate(image, strength)
    values = image / 255.0
    if corruption == "gaussian_noise":
        if not isinstance(generator, np.random.Generator):
            raise PluginError(
                f"corruption 'gaussian_noise': needs a numpy.random.Generator, got {type(generator).__name__};"
                " pass generator=numpy.random.default_rng(seed)"
            )
        values = values + generator.normal(scale=strength, size=image.shape)
    elif corruption == "gaussian_blur":
        sigma = (strength, strength, 0)[: image.ndim]  # channels are not mixed
        values = gaussian_filter(values, sigma, mode="nearest")
    else:
        mean = values.mean(axis=(0, 1), keepdims=True)
        values = mean + strength * (values - mean)
    return np.rint(255 * values.clip(0, 1)).astype(np.uint8)


def _pixelate(image: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
    """Box-filter down to a share of the resolution and back up."""
    height, width = image.shape[:2]
    small = (max(1, int(strength * width)), max(1, int(strength * height)))
    box = Image.Resampling.BOX
    channels = [  # one by one, since Pillow knows only some numbers of channels
        np.asarray(Image.fromarray(channel).resize(small, box).resize((width, height), box))
        for channel in np.moveaxis(np.atleast_3d(image), 2, 0)
    ]
    return np.stack(channels, axis=2).reshape(image.shape)
