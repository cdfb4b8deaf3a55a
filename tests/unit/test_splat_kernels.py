"""Vector lanes, sorting and binning of the rasteriser, and its vector loops against the plain ones."""

import numpy as np
import pytest

from backend.geometry import (
    splat_pixels_simd,
    splat_projection,
    splat_projection_simd,
    splat_tiles,
    splat_tiles_simd,
)
from backend.geometry.jit import kernel
from backend.geometry.simd import (
    LANES,
    constant,
    larger,
    logarithm,
    lowest_bit,
    power_of_two,
    root,
    smaller,
    some,
    splat,
    where,
)
from backend.geometry.simd_moves import (
    aligned,
    load,
    load_quads,
    load_rows,
    load_triples,
    rows_of_columns,
    store,
    store_quads,
    store_rows,
    store_triples,
    store_whole,
    totals,
    transpose,
)
from backend.geometry.splat_projection import NOT_DRAWN
from backend.geometry.splat_raster import Gaussians, render_gaussians
from backend.geometry.splat_tiles import (
    BLOCKS,
    TILE_HEIGHT,
    TILE_WIDTH,
    depth_order,
    split_bands,
)
from tests.unit.test_splat_raster import NAMES, _camera, _scene

_u = np.uint64
_f = np.float32
RAMP = constant(range(LANES))


@kernel
def _lanes(a, b, whole, out):
    """Every operation once: row k of out (20, 16) is the k-th; returns (some, none)."""
    x, y = load(a, _u(0)), load(b, _u(0))
    store(out, _u(0), x + y)
    store(out, _u(16), x - _f(2))
    store(out, _u(32), _f(3) * y)
    store(out, _u(48), x / y)
    store(out, _u(64), x * y + x)
    store(out, _u(80), where((x < y) & (x >= _f(0)), x, _f(-1)))
    store(out, _u(96), where((x > y) | (x <= _f(0)), x, y))
    store(out, _u(112), smaller(x, y))
    store(out, _u(128), larger(x, _f(0.5)))
    store(out, _u(144), root(larger(x, _f(0))))
    store(out, _u(160), RAMP())
    store(out, _u(176), splat(a[3]))
    none = splat(_f(0))
    store(
        out,
        _u(192),
        totals(x, y, x + y, x * y, RAMP(), none, x, y, none, none, none, none, none, none, x - y, y),
    )
    store_rows(out, _u(208), _u(4), x)
    store(out, _u(224), load_rows(a, _u(0), _u(1)))
    x -= y
    store(out, _u(240), x)
    store_whole(whole, _u(0), x * _f(100))
    return some(x > y), some(x > _f(1e9))


def test_lanes_compute_as_numpy_does():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, LANES)).astype(np.float32)
    out, whole = np.zeros((16, LANES), dtype=np.float32), np.zeros(LANES, dtype=np.int32)
    found = _lanes(a, b, whole, out.reshape(-1))
    ramp, zero = np.arange(LANES), np.zeros(LANES)
    sums = [a, b, a + b, a * b, ramp, zero, a, b, zero, zero, zero, zero, zero, zero, a - b, b]
    expected = [
        a + b, a - 2, 3 * b, a / b, a * b + a, np.where((a < b) & (a >= 0), a, -1),
        np.where((a > b) | (a <= 0), a, b), np.minimum(a, b), np.maximum(a, 0.5), np.sqrt(np.maximum(a, 0)),
        ramp, np.full(LANES, a[3]), [v.sum() for v in sums], a,
        np.concatenate([a[i : i + 4] for i in range(4)]), a - b,
    ]  # fmt: skip
    np.testing.assert_allclose(out, expected, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(whole, np.trunc((a - b) * np.float32(100)))
    assert found == (bool((a - b > b).any()), False)


@kernel
def _powers(values, out):
    for i in range(0, len(values), 16):
        store(out, _u(i), power_of_two(load(values, _u(i))))


def test_power_of_two_is_good_to_three_millionths_down_to_the_smallest_normal_number():
    values = np.linspace(-125.9, 0, 16 * 4000, dtype=np.float32)
    out = np.empty_like(values)
    _powers(values, out)
    expected = np.exp2(values.astype(np.float64))
    assert np.abs(out / expected - 1).max() < 3e-6  # measured 2.6e-6


@kernel
def _logarithms(values, out):
    for i in range(0, len(values), 16):
        store(out, _u(i), logarithm(load(values, _u(i))))


def test_logarithm_is_good_to_two_ten_millionths():
    random = np.random.default_rng(6)
    values = np.exp2(np.concatenate([random.uniform(-120, 120, 4000), random.uniform(-0.6, 0.6, 4000)]))
    values = values.astype(np.float32)
    out = np.empty_like(values)
    _logarithms(values, out)
    expected = np.log2(values.astype(np.float64))
    assert (np.abs(out - expected) <= 2e-7 * np.maximum(np.abs(expected), 0.1)).all()


@kernel
def _columns(three, four, square, out_three, out_four, out_square):
    x, y, z = load_triples(three, _u(0))
    store_triples(out_three, _u(0), -z, x, y)
    a, b, c, d = load_quads(four, _u(0))
    store_quads(out_four, _u(0), d, c, b, a)
    transpose(square, _u(2), _u(20), out_square, _u(1), _u(17))


def test_rows_of_three_and_four_and_squares_become_columns_and_rows_again():
    random = np.random.default_rng(5)
    three, four, square = (random.random((16, n)).astype(np.float32) for n in (3, 4, 20))
    out = [np.zeros((16, n), dtype=np.float32) for n in (3, 4, 17)]
    out[2] = np.zeros((17, 17), dtype=np.float32)
    _columns(three, four, square, *out)
    np.testing.assert_array_equal(out[0], three[:, [2, 0, 1]] * np.float32([-1, 1, 1]))
    np.testing.assert_array_equal(out[1], four[:, ::-1])
    np.testing.assert_array_equal(out[2][:16, 1:], square[:, 2:18].T)


@kernel
def _bits(blocks, row):
    return rows_of_columns(blocks, _u(0), row)


@kernel
def _place(number):
    return lowest_bit(number)


def test_rows_of_columns_and_bits_and_aligned_arrays():
    random = np.random.default_rng(1)
    for _ in range(200):
        first = random.integers(-3, 30, 8)
        last = first + random.integers(-2, 12, 8)
        blocks = np.concatenate([last, first]).astype(np.int32)
        row = int(random.integers(0, 8)) * 4
        bits = _bits(blocks, row)
        expected = sum(1 << (4 * i + j) for i in range(8) for j in range(4) if first[i] <= row + j <= last[i])
        assert bits == expected
    assert [_place(np.uint64(n)) for n in (1, 2, 12, 1 << 31, 5 << 40)] == [0, 1, 2, 31, 40]
    assert all(aligned(n).ctypes.data % 64 == 0 and len(aligned(n)) == n for n in (1, 100, 5000))


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_depth_order_is_a_stable_sort_of_what_is_drawn(count):
    random = np.random.default_rng(2)
    depth = np.exp(random.normal(0, 4, count)).astype(np.float32)
    depth[::7] = NOT_DRAWN
    depth[1::11] = np.float32(2.5)
    drawn = np.flatnonzero(depth < NOT_DRAWN)
    np.testing.assert_array_equal(depth_order(depth), drawn[np.argsort(depth[drawn], kind="stable")])


def test_every_band_gets_its_gaussians_in_order():
    random = np.random.default_rng(3)
    depth = random.random(500).astype(np.float32)
    depth[::5] = NOT_DRAWN
    first = random.integers(0, 9, 500)
    last = np.minimum(first + random.integers(0, 5, 500), 8)
    order = depth_order(depth)
    starts, ids = split_bands(depth, order, first.astype(np.int32), last.astype(np.int32), 9)
    for band in range(9):
        expected = [i for i in order if first[i] <= band <= last[i]]
        np.testing.assert_array_equal(ids[starts[band] : starts[band + 1]], expected)


def _awkward(kind: str) -> list[np.ndarray]:
    """200 Gaussians of one kind, among 200 ordinary ones."""
    scene = _scene(400, 4, seed=11)
    random = np.random.default_rng(12)
    some_of = slice(0, 400, 2)
    positions, scales, rotations, opacities, harmonics = scene
    if kind == "huge":
        scales[some_of] *= 40
    elif kind == "tiny":
        scales[some_of] *= 1e-4
    elif kind == "needles":
        scales[some_of] *= (8, 0.02, 0.02)
    elif kind == "behind":
        positions[some_of] *= 30
    elif kind == "degenerate":
        scales[0:100] = 0
        scales[100:200, 1] = 0
        rotations[200:250] = 0
        positions[250:260] = np.nan
        scales[260:270] = np.inf
        harmonics[270:280] = 1e12
    elif kind == "transparent":
        opacities[some_of] = random.uniform(0, 0.008, 200)
    elif kind == "opaque":
        opacities[some_of] = 1
    return scene


KINDS = ("ordinary", "huge", "tiny", "needles", "behind", "degenerate", "transparent", "opaque")


@pytest.mark.parametrize("depth", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("width", "height"), [(70, 53), (33, 17)])
def test_vector_loops_draw_and_differentiate_as_the_plain_ones(kind, width, height, depth):
    gaussians = Gaussians(*_awkward(kind))
    camera = _camera(width, height)
    arguments = (camera.world_from_camera[0], camera.intrinsics[0], width, height, np.array([1.0, 0.7, 0.2]))
    plain = render_gaussians(gaussians, *arguments, depth=depth, kernels="plain")
    vector = render_gaussians(gaussians, *arguments, depth=depth, kernels="simd")
    upstream = np.random.default_rng(1).random(plain.image.shape).astype(np.float32) - np.float32(0.5)
    assert np.isfinite(vector.image).all()
    # A pixel whose alpha or transmittance lies at a threshold may fall to either side.
    differences = np.abs(vector.image - plain.image) / np.maximum(1, np.abs(plain.image))
    assert np.quantile(differences, 0.99) < 2e-5
    assert np.linalg.norm(vector.image - plain.image) < 1e-4 * np.linalg.norm(plain.image)
    expected, found = plain.backward(upstream), vector.backward(upstream)
    for name in NAMES:
        a, b = getattr(expected, name), getattr(found, name)
        assert np.isfinite(b).all(), name
        # Measured up to 6e-5; needles 3e-4, where the plain exponent loses digits.
        assert np.linalg.norm(a - b) <= (2e-3 if kind == "needles" else 5e-4) * np.linalg.norm(a), name


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("coefficients", [1, 4, 9, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_vector_loops_project_and_differentiate_as_the_plain_ones(kind, coefficients, antialiased):
    random = np.random.default_rng(13)
    scene = _awkward(kind)
    scene[4] = np.concatenate([scene[4][:, :1], random.normal(0, 0.15, (400, coefficients - 1, 3))], axis=1)
    arrays = vars(Gaussians(*scene)).values()
    view = _camera(96, 80)
    camera = splat_projection.pack_camera(view.world_from_camera[0], view.intrinsics[0], 96, 80)
    upstream = np.zeros((400, splat_projection.SCREEN_GRADIENT), dtype=np.float32)
    upstream[:, :10] = random.normal(size=(400, 10))
    upstream[::3] = 0
    found = []
    for module in (splat_projection, splat_projection_simd):
        screen, depth = np.zeros((400, splat_projection.SCREEN), np.float32), np.zeros(400, np.float32)
        first, last = np.zeros((2, 400), dtype=np.int32)
        module.project(camera, antialiased, *arrays, screen, depth, first, last)
        gradients = [np.full_like(array, np.nan) for array in arrays]
        moved = np.zeros(splat_projection.CAMERA_GRADIENT)
        module.project_back(camera, antialiased, True, *arrays, screen, upstream, *gradients, moved)
        found.append((screen, depth, first, last, [*gradients, moved]))
    (screen, depth, first, last, gradients), (screen_2, depth_2, first_2, last_2, gradients_2) = found
    drawn = depth < NOT_DRAWN
    np.testing.assert_allclose(depth, depth_2, rtol=1e-6)
    np.testing.assert_array_equal(first[drawn], first_2[drawn])
    np.testing.assert_array_equal(last[drawn], last_2[drawn])
    scale = np.abs(screen[drawn]).max(axis=0) + 1e-6
    np.testing.assert_allclose(screen[drawn] / scale, screen_2[drawn] / scale, rtol=2e-4, atol=2e-6)
    for a, b in zip(gradients, gradients_2, strict=True):
        assert np.isfinite(b).all()
        assert np.linalg.norm(a - b) <= 2e-5 * np.linalg.norm(a)


@pytest.mark.parametrize("bin_band", [splat_tiles.bin_band, splat_tiles_simd.bin_band], ids=["plain", "simd"])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_a_band_hold_every_pixel_that_counts_and_few_others(kind, bin_band):
    width, height = 96, 80
    camera = _camera(width, height)
    drawn = render_gaussians(
        Gaussians(*_awkward(kind)),
        camera.world_from_camera[0],
        camera.intrinsics[0],
        width,
        height,
        np.ones(3),
    )
    tile_rows = -(-height // TILE_HEIGHT)
    listed_in_all = empty_in_all = 0
    for band in drawn.bands:
        y, x = np.mgrid[0 : tile_rows * TILE_HEIGHT, 0:TILE_WIDTH] + 0.5
        x += band.first_pixel
        local, starts, hits = bin_band(band.first_pixel, tile_rows, band.ids, drawn.screen)
        listed = np.zeros((len(band.ids), tile_rows * 4, 8), dtype=bool)
        for tile in range(tile_rows):
            owners = hits[starts[tile] : starts[tile + 1]] >> BLOCKS
            assert (np.diff(owners) > 0).all()  # near to far, each once
            bits = (hits[starts[tile] : starts[tile + 1], None] >> np.arange(BLOCKS)) & 1
            listed[owners, 4 * tile : 4 * tile + 4] = bits.reshape(-1, 8, 4).transpose(0, 2, 1)
        for n in range(len(band.ids)):
            peak, shear, along, across = local[n, 12:16].astype(np.float64)
            dx, dy = x - local[n, 0], y - local[n, 1]
            counts = peak + along * dx**2 + across * (dy + shear * dx) ** 2 >= np.log2(1 / 255) + 1e-4
            needed = counts.reshape(tile_rows * 4, 4, 8, 4).any(axis=(1, 3))
            assert not (needed & ~listed[n])[: height // 4].any()
            listed_in_all += listed[n].sum()
            empty_in_all += (listed[n] & ~needed).sum()
    assert empty_in_all <= 0.1 * listed_in_all + 5


@pytest.mark.parametrize("kind", KINDS)
def test_vector_loops_bin_and_gather_as_the_plain_ones(kind):
    width, height = 96, 80
    camera = _camera(width, height)
    given = (camera.world_from_camera[0], camera.intrinsics[0], width, height, np.ones(3))
    drawn = render_gaussians(Gaussians(*_awkward(kind)), *given)
    total = other = 0
    for band in drawn.bands:
        given = (band.first_pixel, -(-height // TILE_HEIGHT), band.ids, drawn.screen)
        plain, vector = splat_tiles.bin_band(*given), splat_tiles_simd.bin_band(*given)
        np.testing.assert_allclose(plain[0], vector[0], rtol=1e-6)
        np.testing.assert_array_equal(plain[1], vector[1])
        np.testing.assert_array_equal(plain[2] >> BLOCKS, vector[2] >> BLOCKS)
        # Rounding may put a block that is reached by 0.02 pixels to either side.
        total, other = total + len(plain[2]), other + np.count_nonzero(plain[2] != vector[2])
        plain, vector = np.zeros(
            (2, len(drawn.gaussians), splat_projection.SCREEN_GRADIENT), dtype=np.float32
        )
        splat_tiles.gather_gradient(band.ids, band.local, plain)
        splat_tiles_simd.gather_gradient(band.ids, band.local, vector)
        np.testing.assert_array_equal(plain, vector)
    assert other <= 1e-3 * total


def test_no_kernel_is_compiled_twice():
    scene = Gaussians(*_awkward("ordinary"))
    camera = _camera(40, 40)
    for depth in (False, True):
        drawn = render_gaussians(
            scene, camera.world_from_camera[0], camera.intrinsics[0], 40, 40, np.ones(3), depth=depth
        )
        drawn.backward(np.ones_like(drawn.image))
    kernels = {
        name: value
        for module in (splat_tiles, splat_tiles_simd, splat_pixels_simd, splat_projection_simd)
        for name, value in vars(module).items()
        if hasattr(value, "nopython_signatures")
    }
    # One that only kernels call shows no signature when its caller came from the cache.
    assert {name for name, k in kernels.items() if len(k.nopython_signatures) > 1} == set()
