"""Multi-resolution hash grid (Instant-NGP 2022) with levels that join one after another."""

import importlib.util
import itertools

import numpy as np
import torch

from backend.geometry.parallel import for_bands, map_parallel
from backend.stages.surface.neus.hash_kernels import PRIMES, add_gradients, look_up
from backend.stages.surface.neus.settings import FINITE_DIFFERENCE, Settings

_CHUNK = 1 << 14
_NO_SLOPES = np.zeros((0, 0, 0), dtype=np.float32)


class HashGrid(torch.nn.Module):
    """Features of points by trilinear interpolation in tables, one a level.

    A level whose corners fit the table has a row for each; a finer one hashes them (equation 4). On a CPU
    compiled kernels do the work; `plain=True` keeps to torch operations everywhere.
    """

    def __init__(self, settings: Settings, generator: torch.Generator, plain: bool = False) -> None:
        super().__init__()
        self.levels, self.features = settings.levels, settings.features
        self.active = settings.active_levels(0)
        self.plain = plain or settings.features != 2
        self.resolutions = [settings.resolution(level) for level in range(settings.levels)]
        most = 1 << settings.log2_table
        self.sizes = [min((n + 1) ** 3, most) for n in self.resolutions]
        self.first = [0, *itertools.accumulate(self.sizes)][:-1]
        table = torch.rand((sum(self.sizes), settings.features), generator=generator)
        self.table = torch.nn.Parameter((2 * table - 1) * 1e-4)

    @property
    def outputs(self) -> int:
        return self.levels * self.features

    def forward(self, points: torch.Tensor, slopes: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
        """points (P, 3) in 0..1 -> features (P, L F), 0 in levels not in use; and d features / d points.

        The second is (P, L F, 3), differentiable with respect to the table, or None.
        """
        if points.device.type == "cpu" and points.dtype == torch.float32 and not self.plain:
            features, derived = _Lookup.apply(points, self.table, self, slopes)
            return features, derived if slopes else None
        found = [self._level(points, level, slopes) for level in range(self.active)]
        unused = (self.levels - self.active) * self.features
        features = torch.nn.functional.pad(torch.cat([f for f, _ in found], 1), (0, unused))
        if not slopes:
            return features, None
        return features, torch.nn.functional.pad(torch.cat([s for _, s in found], 1), (0, 0, 0, unused))

    def _level(
        self, points: torch.Tensor, level: int, slopes: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        resolution, size = self.resolutions[level], self.sizes[level]
        scaled = points.clamp(0, 1) * resolution
        low = scaled.detach().floor().clamp_max(resolution - 1)
        upper = scaled - low  # (P, 3)
        weights = torch.stack([1 - upper, upper])  # (2, P, 3)
        low = low.long()
        values, derived = 0, 0
        for corner in itertools.product((0, 1), repeat=3):
            row = self._row([low[:, axis] + corner[axis] for axis in range(3)], resolution, size)
            value = self.table[self.first[level] + row]  # (P, F)
            wx, wy, wz = (weights[corner[axis], :, axis, None] for axis in range(3))
            values = values + wx * wy * wz * value
            if slopes:
                sx, sy, sz = (2 * corner[axis] - 1 for axis in range(3))
                parts = torch.stack([sx * wy * wz, sy * wx * wz, sz * wx * wy], dim=-1)  # (P, 1, 3)
                derived = derived + resolution * parts * value[..., None]
        return values, derived if slopes else None

    @staticmethod
    def _row(at: list[torch.Tensor], resolution: int, size: int) -> torch.Tensor:
        side = resolution + 1
        if side**3 <= size:
            return at[0] + side * (at[1] + side * at[2])
        return ((at[0] * PRIMES[0]) ^ (at[1] * PRIMES[1]) ^ (at[2] * PRIMES[2])) & (size - 1)


class _Lookup(torch.autograd.Function):
    """The compiled lookup. Its gradient to the points leaves the slopes' own change out."""

    @staticmethod
    def forward(ctx, points, table, grid, slopes):
        ctx.grid, ctx.slopes = grid, slopes
        shape = (len(points), grid.outputs)
        need = slopes or ctx.needs_input_grad[0]
        features = np.zeros(shape, dtype=np.float32)
        derived = np.zeros((*shape, 3), dtype=np.float32) if need else _NO_SLOPES
        layout = tuple(np.array(a, dtype=np.int64) for a in (grid.first, grid.sizes, grid.resolutions))
        array, rows = np.ascontiguousarray(points.detach().numpy()), table.detach().numpy()
        active = grid.active
        for_bands(
            lambda start, stop: look_up(array, rows, *layout, active, start, stop, features, derived),
            len(points),
        )
        ctx.layout, ctx.active, ctx.table_shape = layout, active, table.shape
        derived = torch.from_numpy(derived)
        ctx.save_for_backward(points, derived)
        return torch.from_numpy(features), derived

    @staticmethod
    def backward(ctx, d_features, d_derived):
        points, derived = ctx.saved_tensors
        d_points = d_table = None
        if ctx.needs_input_grad[0]:
            d_points = torch.einsum("pf,pfc->pc", d_features, derived)
        if ctx.needs_input_grad[1]:
            d_table = np.zeros(ctx.table_shape, dtype=np.float32)
            array = np.ascontiguousarray(points.detach().numpy())
            upstream = np.ascontiguousarray(d_features.numpy())
            upstream_slopes = np.ascontiguousarray(d_derived.numpy()) if ctx.slopes else _NO_SLOPES
            # A level a thread: no two threads write to the same row, and the order of the sums is fixed.
            map_parallel(
                lambda level: add_gradients(array, *ctx.layout, level, upstream, upstream_slopes, d_table),
                reversed(range(ctx.active)),
            )
            d_table = torch.from_numpy(d_table)
        return d_points, d_table, None, None


class TinyCudaGrid(torch.nn.Module):
    """The same grid by tiny-cuda-nn: faster, in half precision, without slopes."""

    def __init__(self, settings: Settings, module) -> None:
        super().__init__()
        self.levels, self.features = settings.levels, settings.features
        self.active = settings.active_levels(0)
        self.resolutions = [settings.resolution(level) for level in range(settings.levels)]
        self.encoding = module.Encoding(
            3,
            {
                "otype": "HashGrid",
                "n_levels": settings.levels,
                "n_features_per_level": settings.features,
                "log2_hashmap_size": settings.log2_table,
                "base_resolution": settings.base_resolution,
                "per_level_scale": settings.growth,
            },
        )

    @property
    def outputs(self) -> int:
        return self.levels * self.features

    def forward(self, points: torch.Tensor, slopes: bool = False) -> tuple[torch.Tensor, None]:
        """As `HashGrid.forward`, without slopes."""
        if slopes:
            raise ValueError("tiny-cuda-nn's grid has no slopes: use finite differences")
        used = torch.arange(self.outputs, device=points.device) < self.active * self.features
        return self.encoding(points).float() * used, None


def make_grid(settings: Settings, device: str, generator: torch.Generator) -> torch.nn.Module:
    """tiny-cuda-nn's grid where it is installed and can do what the settings ask for, or ours."""
    wanted = device.startswith("cuda") and settings.gradient == FINITE_DIFFERENCE
    if wanted and importlib.util.find_spec("tinycudann") is not None:
        import tinycudann

        return TinyCudaGrid(settings, tinycudann).to(device)
    return HashGrid(settings, generator).to(device)


def points_in_chunks(count: int, chunk: int = _CHUNK) -> list[slice]:
    """Slices that cover range(count)."""
    return [slice(start, start + chunk) for start in range(0, count, chunk)]
