"""GSplat's two functions that we call, with its arguments and results, without CUDA.

Projection and harmonics are GSplat's own torch code; compositing is the tests' oracle. So the code around
GSplat can be tested where no GPU is; what GSplat's CUDA kernels do, only a GPU can tell.
"""

import torch

from tests.support import torch_splats


def rasterization(
    *, means, quats, scales, opacities, colors, viewmats, Ks, width, height, eps2d, sh_degree, packed,
    backgrounds, render_mode, rasterize_mode,
):  # fmt: skip
    """As gsplat.rasterization: colours (C, H, W, 3 or 4), alphas (C, H, W, 1), info."""
    assert (eps2d, packed, colors.shape[1]) == (0.3, False, (sh_degree + 1) ** 2)
    assert render_mode in ("RGB", "RGB+D")
    assert rasterize_mode in ("classic", "antialiased")
    projected = [
        torch_splats.project(
            means, scales, quats, opacities, colors, view, intrinsics, width, height,
            rasterize_mode == "antialiased",
        )
        for view, intrinsics in zip(viewmats, Ks, strict=True)
    ]  # fmt: skip
    # As GSplat's, the centres in the info are those that the pictures are made of.
    means2d = torch.stack([arrays[0] for arrays in projected])
    pictures = torch.stack([
        torch_splats.composite_all(
            (centres, *arrays[1:]), width, height, background, render_mode == "RGB+D"
        ).permute(1, 2, 0)
        for centres, arrays, background in zip(means2d, projected, backgrounds, strict=True)
    ])  # fmt: skip
    channels = [0, 1, 2, 4] if render_mode == "RGB+D" else [0, 1, 2]
    info = {
        name: torch.stack([arrays[i] for arrays in projected])
        for i, name in ((1, "depths"), (2, "conics"), (4, "opacities"), (5, "radii"))
    }
    info |= {
        "means2d": means2d,
        "tile_size": 16,
        "isect_offsets": None,
        "flatten_ids": info["depths"].detach(),
    }
    return pictures[..., channels], pictures[..., 3:4], info


def rasterize_to_indices_in_range(
    first, last, transmittances, means2d, conics, opacities, width, height, tile_size, offsets, depths
):
    """As GSplat's: Gaussian, pixel and image of every blended pair, pixel by pixel, near to far.

    `depths` (C, G) stands for the sorted list of tile hits that our `rasterization` does not make.
    """
    assert first == 0
    assert transmittances.shape == (len(means2d), height, width)
    found = []
    for image in range(len(means2d)):
        order = torch.argsort(depths[image])
        order = order[depths[image, order] > 0.01]
        alpha = torch_splats.alphas(
            order, means2d[image], conics[image], opacities[image], (0, 0, width, height)
        )
        pixel, rank = torch.nonzero(alpha.T > 0, as_tuple=True)
        found.append((order[rank], pixel, torch.full_like(pixel, image)))
    return tuple(torch.cat(part) for part in zip(*found, strict=True))
