"""nvdiffrast's functions that we call, with its arguments and results, in plain torch on a CPU.

Written from its documentation: OpenGL's clip space, row 0 at the bottom of pictures and textures, the
result of `rasterize` (u, v, z/w, face + 1) with (1, 0) at a face's first corner. Every face of a row against
each of its pixels, in homogeneous coordinates: for small meshes.
"""

import torch


class RasterizeCudaContext:
    """What nvdiffrast keeps on the GPU; here, what was drawn."""

    def __init__(self, device=None):
        self.device = device
        self.drawn = {}  # fits draw the same few pictures again and again


def rasterize(glctx, pos, tri, resolution, ranges=None, grad_db=True):
    """pos (1, V, 4) clip space, tri (F, 3) int32 -> (1, H, W, 4), and no derivatives."""
    assert isinstance(glctx, RasterizeCudaContext)
    assert ranges is None
    assert (pos.dtype, tri.dtype, pos.shape[0]) == (torch.float32, torch.int32, 1)
    assert pos.is_contiguous() and tri.is_contiguous()
    key = pos.numpy().tobytes(), tri.numpy().tobytes(), resolution
    if key not in glctx.drawn:
        glctx.drawn[key] = _rasterized(pos, tri, *resolution)
    return glctx.drawn[key], torch.zeros((1, *resolution, 0))


def _rasterized(pos, tri, height, width):
    every = pos[0].double()[tri.long()]  # (F, 3, 4)
    assert (every[..., 3] > 0).all(), "this stand-in cuts no faces"
    heights = every[..., 1] / every[..., 3]
    out = torch.zeros((1, height, width, 4))
    x = (torch.arange(width, dtype=torch.float64) + 0.5) / width * 2 - 1
    for row in range(height):
        y = (row + 0.5) / height * 2 - 1
        numbers = torch.nonzero((heights.amin(1) <= y) & (heights.amax(1) >= y))[:, 0]
        if not len(numbers):
            continue
        corners = every[numbers]
        # Edge functions of a pixel's sight line: the corner's place less the pixel's, times w.
        px = corners[:, :, 0, None] - x * corners[:, :, 3, None]  # (F, 3, W)
        py = (corners[:, :, 1] - y * corners[:, :, 3])[..., None].expand_as(px)
        a = [px[:, i] * py[:, j] - py[:, i] * px[:, j] for i, j in ((1, 2), (2, 0), (0, 1))]
        area = a[0] + a[1] + a[2]
        b0, b1, b2 = (part / area for part in a)
        w = sum(b * corners[:, i, 3, None] for i, b in enumerate((b0, b1, b2)))
        z = sum(b * corners[:, i, 2, None] for i, b in enumerate((b0, b1, b2))) / w
        inside = (b0 >= 0) & (b1 >= 0) & (b2 >= 0) & (w > 0) & (z.abs() <= 1)
        depth = torch.where(inside, z, torch.inf)
        nearest, face = depth.min(dim=0)
        seen = nearest < torch.inf
        column = torch.arange(width)
        values = torch.stack([b0[face, column], b1[face, column], nearest, numbers[face] + 1.0], dim=-1)
        out[0, row] = torch.where(seen[:, None], values, 0.0).float()
    return out


def interpolate(attr, rast, tri, rast_db=None, diff_attrs=None):
    """attr (1, V, C), tri (F, 3) -> (1, H, W, C), 0 where no face is."""
    assert attr.ndim == 3 and attr.is_contiguous() and tri.dtype == torch.int32
    face = rast[..., 3].long() - 1
    corners = attr[0][tri.long()[face.clamp_min(0)]]  # (1, H, W, 3, C)
    weights = torch.stack([rast[..., 0], rast[..., 1], 1 - rast[..., 0] - rast[..., 1]], dim=-1)
    values = (weights[..., None] * corners).sum(-2)
    return torch.where((face >= 0)[..., None], values, 0.0), None


def texture(tex, uv, uv_da=None, mip_level_bias=None, mip=None, filter_mode="auto", boundary_mode="wrap"):
    """tex (1, T, T, C), uv (1, H, W, 2) with (0, 0) at the outer corner of row 0, column 0."""
    assert (filter_mode, boundary_mode) == ("linear", "clamp")
    assert tex.ndim == 4 and uv.is_contiguous()
    return torch.nn.functional.grid_sample(
        tex.permute(0, 3, 1, 2), 2 * uv - 1, mode="bilinear", padding_mode="border", align_corners=False
    ).permute(0, 2, 3, 1)
