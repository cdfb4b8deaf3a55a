"""Levelling: one gain and one offset a view and channel, so that views agree where they see the same.

What Lempitsky and Ivanov (2007) do per texel at borders of views is left to the two bands of the blend;
exposure, which differs over whole views, is taken out before.
"""

import numpy as np

GAIN_PRIOR = 0.05
OFFSET_PRIOR = 1.0
"""How firmly gains stay near 1 and offsets near 0, against the mean square of the colours: lights and
reflections that differ from view to view are no exposure."""
MOST_GAIN = 0.2
"""Gains stay within 1 / (1 + this) .. 1 + this."""
SAMPLES = 20_000
"""Texels to look at."""
OUTLIER = 0.1
"""Difference of colours at which a sample has half its say: wrong geometry, occlusion, highlights."""
ROUNDS = 12


def level_views(samples: np.ndarray, trust: np.ndarray) -> np.ndarray:
    """Levels (N, 2, 3) float32: level[0] * colour + level[1] is a view's colour in the common exposure.

    samples (P, N, 4) as from `projection.sample_views`; trust (N,) >= 0: the common exposure is the mean of
    the views' so weighted. View 0 is the user's: it takes part, and its own level is 1 and 0. Alternates
    between the common colours and the views' gains and offsets.
    """
    colors, weight = samples[..., :3].astype(np.float64), samples[..., 3:].astype(np.float64)
    shared = (weight[..., 0] > 0).sum(axis=1) > 1
    colors, weight = colors[shared], weight[shared]
    count = samples.shape[1]
    gain, offset = np.ones((count, 3)), np.zeros((count, 3))
    if not len(colors) or not trust.any():
        return np.stack([gain, offset], axis=1).astype(np.float32)
    weight = weight / weight.sum(axis=1, keepdims=True)
    say = np.ones_like(weight)
    anchor = (trust / trust.sum())[:, None]
    for _ in range(ROUNDS):
        level = (colors - offset) / gain
        use = weight * say
        common = ((use * level).sum(axis=1) / np.maximum(use.sum(axis=1), 1e-9))[:, None]
        error = ((level - common) ** 2).sum(axis=2, keepdims=True)
        say = 1 / (1 + (error / OUTLIER**2) ** 2)
        use = weight * say
        total = use.sum(axis=0)
        brightness = (use * common**2).sum(axis=0) / np.maximum(total, 1e-9)
        seen = np.maximum(total, 1e-3 * total.max())
        # Ridge regression of each view's colours on the common ones.
        a = (use * common**2).sum(axis=0) + GAIN_PRIOR * brightness * seen
        b = (use * common).sum(axis=0)
        c = total + OFFSET_PRIOR * seen
        p = (use * common * colors).sum(axis=0) + GAIN_PRIOR * brightness * seen
        q = (use * colors).sum(axis=0)
        determinant = np.maximum(a * c - b * b, 1e-12)
        free = total[:, 0] > 0
        gain = np.where(free[:, None], (c * p - b * q) / determinant, 1.0)
        offset = np.where(free[:, None], (a * q - b * p) / determinant, 0.0)
        gain /= (anchor * gain).sum(axis=0)
        gain = np.clip(gain, 1 / (1 + MOST_GAIN), 1 + MOST_GAIN)
        offset -= (anchor * offset).sum(axis=0)
    gain[0], offset[0] = 1, 0
    return np.stack([1 / gain, -offset / gain], axis=1).astype(np.float32)
