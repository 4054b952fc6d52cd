"""Attention laid over the picture that it belongs to, for people to look at."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# Perceptually even, and readable without red-green vision.
COLOURS = "inferno"
STRENGTH = 0.8
# In even shares (1 / patches): where colour begins and is full, and the least top of the scale.
# What is looked at no more than everything else stays grey.
BEGINS, FULL, LEAST_TOP = 1.1, 2.0, 4.0


def top_of(heat: "np.ndarray") -> float:
    """The end of the colour scale for shares [h, w]: their largest, or four even shares."""
    return max(float(heat.max()), LEAST_TOP / heat.size)


def overlay(picture: "np.ndarray", heat: "np.ndarray") -> "np.ndarray":
    """The picture in pale grey, and over it the attention.

    Args:
        picture: [H, W, 3] in 0..1.
        heat: [h, w], the shares of attention of the patches.

    Returns:
        [H, W, 3] in 0..1.
    """
    import matplotlib
    import numpy as np

    height, width = picture.shape[:2]
    grey = 0.3 + 0.7 * picture.mean(-1, keepdims=True).repeat(3, -1)
    shares = _stretched(heat, height, width)
    colour = matplotlib.colormaps[COLOURS](shares / top_of(heat))[..., :3]
    ramp = (shares * heat.size - BEGINS) / (FULL - BEGINS)
    alpha = STRENGTH * np.clip(ramp, 0, 1)[..., None]
    return np.clip((1 - alpha) * grey + alpha * colour, 0, 1)


def _stretched(values: "np.ndarray", height: int, width: int) -> "np.ndarray":
    """[h, w] -> [height, width], bilinear: no edge that is not in the data."""
    import numpy as np
    from PIL import Image

    small = Image.fromarray(values.astype(np.float32))
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))
