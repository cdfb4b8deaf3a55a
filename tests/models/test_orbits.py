"""Orbits by tiny published models: conditions, guidance, cameras, seeds, previews, cancel."""

import numpy as np
import pytest
import torch

from backend.geometry.splat_parameters import rates_called, scene_extent
from backend.models import conditioning, orbits
from backend.models.cameras import OURS_FROM_PUBLISHED
from backend.models.depth import depth_size
from backend.models.layouts import LAYOUTS
from backend.models.sampling import Condition, Guidance
from backend.pipeline.options import OrbitOptions, RefineOptions, override, preset
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Picture
from backend.stages.orbit.published import Hi3DOrbit, Sv3dPOrbit, Sv3dUOrbit, V3DOrbit, read_path
from backend.stages.refine.hi3d import Hi3DRefine
from backend.weights import store
from shared_protocol.errors import Cancelled, InvalidInput, WeightsError
from tests.support import tiny_models

MODELS = {
    "hi3d": ("hi3d_stage1", "hi3d_stage2"),
    "v3d": ("v3d_object",),
    "svd_xt": ("svd_xt",),
    "sv3d_u": ("sv3d_u",),
    "sv3d_p": ("sv3d_p",),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weights folder in which tiny models lie converted."""
    from backend.models.convert import convert

    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORRERY_WEIGHTS", str(folder))
        for model, names in MODELS.items():
            for name, file in zip(names, store.find_entry(model).files, strict=True):
                path = tiny_models.write(folder, name, changed=tiny_models.crafted(name))
                parts = frozenset(file.parts) or None
                convert(path, LAYOUTS[name], store.converted_folder(model, file), parts=parts)
    return folder


@pytest.fixture
def ready(weights, monkeypatch):
    monkeypatch.setenv("ORRERY_WEIGHTS", str(weights))


@pytest.fixture(scope="module")
def cutout():
    y, x = np.mgrid[:128, :128] + 0.5
    alpha = (np.hypot(x - 64, y - 64) < 44).astype(np.float32)
    colour = np.stack([x / 400, y / 400, np.full_like(x, 0.2)], axis=-1)
    return Picture(np.dstack([colour, alpha]).astype(np.float32))


def context(stage="orbit", **more):
    return StageContext(stage, None, "tiny", **more)


def generate(engine, cutout, within=None, **options):
    given = OrbitOptions(**{"size": 64, "steps": 2, "views": 4} | options)
    return engine.generate(cutout, given, within or context())


def covers(views):
    return (views.rgba[..., 3] > 0.5).mean(axis=(1, 2))


def test_hi3d_draws_its_ring_with_the_published_camera(ready, cutout):
    shown, steps = [], []
    within = context(
        on_preview=lambda name, draw: shown.append((name, draw())),
        on_step=lambda done, total, text: steps.append((done, total, text)),
    )
    views = generate(Hi3DOrbit(), cutout, within, elevation=20.0, views=16)
    assert views.rgba.shape == (16, 64, 64, 4)
    assert (covers(views) > 0.1).all() and (covers(views) < 0.9).all()
    centres = views.cameras.centres
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1.5)
    np.testing.assert_allclose(np.degrees(np.arcsin(centres[:, 2] / 1.5)), 20.0)
    azimuths = np.degrees(np.arctan2(centres[:, 0], -centres[:, 1])) % 360
    np.testing.assert_allclose(azimuths, np.arange(16) * 22.5, atol=1e-9)
    fov = 2 * np.degrees(np.arctan(32 / views.cameras.intrinsics[0, 0, 0]))
    assert fov == pytest.approx(49.13) and fov == pytest.approx(2 * np.degrees(np.arctan(16 / 35)), abs=0.01)
    assert [name for name, _ in shown] == ["orbit", "orbit"] and shown[0][1].shape == (32, 32, 3)
    assert (2, 2, "Hi3D, first stage") in steps


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(ready, cutout):
    first, again, other = (
        generate(Hi3DOrbit(), cutout, context(seed=seed), aesthetic=6.0) for seed in (3, 3, 4)
    )
    assert np.array_equal(first.rgba, again.rgba) and not np.array_equal(first.rgba, other.rgba)


def test_hi3ds_second_stage_keeps_the_ring_at_its_own_size(ready, cutout):
    orbit = generate(Hi3DOrbit(), cutout, elevation=10.0)
    views = Hi3DRefine().refine(cutout, orbit, RefineOptions(size=128, steps=2), context("refine"))
    assert views.rgba.shape == (4, 128, 128, 4) and (covers(views) > 0.1).all()
    np.testing.assert_allclose(views.cameras.world_from_camera, orbit.cameras.world_from_camera)
    assert views.cameras.width == 128


def test_v3d_takes_clip_and_encoder_from_svd(ready, cutout):
    views = generate(V3DOrbit(), cutout, views=6)
    np.testing.assert_allclose(np.linalg.norm(views.cameras.centres, axis=1), 2.0)
    assert 2 * np.degrees(np.arctan(32 / views.cameras.intrinsics[0, 0, 0])) == pytest.approx(60)
    assert (covers(views) > 0.1).all()


def test_sv3d_ends_on_the_input_view_which_is_ours_first(ready, cutout):
    views = generate(Sv3dUOrbit(), cutout, views=5)
    azimuths = np.degrees(np.arctan2(views.cameras.centres[:, 0], -views.cameras.centres[:, 1])) % 360
    np.testing.assert_allclose(azimuths, [0, 72, 144, 216, 288], atol=1e-9)
    assert orbits.sv3d_azimuths(21)[-1] == 0 and orbits.sv3d_azimuths(21)[0] == pytest.approx(17.142857)


def test_sv3d_p_follows_any_path(ready, cutout):
    views = generate(Sv3dPOrbit(), cutout, path="90:20, 0:-5, 270:-30, 180:60")
    centres = views.cameras.centres / 2
    np.testing.assert_allclose(np.degrees(np.arcsin(centres[:, 2])), [-5, 20, 60, -30], atol=1e-9)
    for text in ("", "0:0", "10:0,20:0,30:0,40:0", "0:95,1:0,2:0,3:0", "a:b", "0:0,nan:1,2:0,3:0"):
        with pytest.raises(InvalidInput):
            read_path(text)


def test_a_cancel_between_the_blocks_of_a_net_ends_the_stage(ready, cutout):
    within = context()
    within.on_step = lambda done, total, text: within.cancelled.set() if text.startswith("Hi3D") else None
    with pytest.raises(Cancelled):
        generate(Hi3DOrbit(), cutout, within)


def test_weights_that_are_not_here_are_named_with_the_command_that_brings_them(tmp_path, monkeypatch, cutout):
    monkeypatch.setenv("ORRERY_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match="models pull sv3d_u"):
        generate(Sv3dUOrbit(), cutout)


def test_a_size_that_no_latent_has_is_refused(ready, cutout):
    with pytest.raises(InvalidInput, match="multiple of 64"):
        generate(Hi3DOrbit(), cutout, size=100)


def test_vectors_have_the_published_order_and_widths():
    first = conditioning.hi3d_first_vector(6.0, 20, 0.02)
    assert first.shape == (1, 768) and first[0, 0] == 6.0 and first[0, 255] == 0
    number = conditioning.numbers
    assert torch.equal(first[:, 256:512], number([20])) and torch.equal(first[:, 512:], number([0.02]))
    second = conditioning.hi3d_second_vector(20, 0.02)
    assert second.shape == (1, 512) and torch.equal(second[:, :256], number([20]))
    assert conditioning.svd_vector(1, 300, 0.02).shape == (1, 768)
    assert conditioning.sv3d_u_vector(1e-5).shape == (1, 256)
    rows = conditioning.sv3d_p_vector(1e-5, [10, 10], [90, 0])
    assert rows.shape == (2, 1280)
    assert torch.equal(rows[:, 256:768], conditioning.sinusoid(torch.full((2,), np.radians(80)), 512))
    assert torch.equal(rows[1, 768:1024], torch.ones(256)) and not rows[1, 1024:].any()


def test_the_unconditional_half_keeps_the_vector_and_loses_tokens_and_pictures():
    condition = Condition(torch.ones(1, 1, 4), torch.ones(1, 8), torch.ones(3, 4, 2, 2))
    bare = condition.without()
    assert not bare.context.any() and not bare.concat.any() and torch.equal(bare.vector, condition.vector)


def test_the_anchor_fades_as_in_the_released_code():
    weights = [round(orbits.anchor_weight(i, 25), 3) for i in range(15)]
    assert weights == [
        1, 0.984, 0.938, 0.866, 0.774, 0.670, 0.561, 0.455, 0.358, 0.272, 0.200, 0.142, 0.098, 0.065, 0.042
    ]  # fmt: skip


def test_guidance_and_depth_sizes_are_the_published_ones():
    assert orbits.HI3D.guidance.scales(16)[[0, 15]].tolist() == [1.0, 2.5]
    assert orbits.HI3D_SECOND.guidance.scales(16)[[0, 15]].tolist() == [1.0, 2.0]
    assert orbits.V3D.guidance.scales(18).tolist() == [3.5] * 18
    assert Guidance("triangle", 1.0, 2.5).scales(21)[[0, 10, 20]].tolist() == [1.0, 2.5, 1.0]
    assert (depth_size(1024), depth_size(512)) == (384, 192)


def test_the_second_stages_input_is_noise_then_depth_then_latents(ready, monkeypatch, cutout):
    """Each group alone is changed; exactly its channels of the net's input change."""
    from backend.models import engine

    seen = []

    def watched(net, noise, condition, *rest, **more):
        seen.append((noise, condition.framed(len(noise)).concat))
        raise Cancelled("enough")

    monkeypatch.setattr(orbits, "sample", watched)
    model = engine.opened("hi3d", "hi3d_stage2", "full", context())
    frames = orbits.as_picture(cutout.rgba, 128).repeat(3, 1, 1, 1)
    for change in (None, "depth"):
        if change == "depth":
            monkeypatch.setattr(orbits, "depth_condition", lambda frame, net: torch.ones(1, 9, 16, 16))
        with pytest.raises(Cancelled):
            orbits.hi3d_second(model, frames, 0, torch.Generator().manual_seed(0), orbits.Watch(), steps=2)
    (noise, plain), (_, changed) = seen
    assert noise.shape == (3, 4, 16, 16) and plain.shape == (3, 13, 16, 16)
    assert model.settings("unet").in_channels == 4 + 13
    assert not torch.equal(plain[:, :9], changed[:, :9]) and torch.equal(plain[:, 9:], changed[:, 9:])


def test_our_world_is_the_published_one_turned_by_a_quarter():
    assert np.allclose(OURS_FROM_PUBLISHED @ [1, 0, 0, 1], [0, -1, 0, 1])  # the first view
    assert np.allclose(OURS_FROM_PUBLISHED @ [0, 1, 0, 1], [1, 0, 0, 1])  # counter-clockwise from it


def test_naming_an_orbit_engine_brings_what_its_orbits_ask_of_the_other_stages():
    options = override(preset("standard"), {"orbit.engine": "hi3d", "refine.size": 512})
    assert options["orbit"].views == 16 and options["refine"].engine == "hi3d"
    assert options["refine"].size == 512  # the user's own word is last
    assert options["surface"].neus_views == 16 and options["matting"].fill == 0.73
    assert override(preset("standard"), {"orbit.engine": "v3d"})["matting"].fill == 0.7
    assert override(preset("standard"), {})["orbit"].views == 16


def test_v3ds_way_on_a_gpu_is_its_released_commands(monkeypatch):
    from backend.pipeline import presets
    from backend.pipeline.engines import Availability

    monkeypatch.setattr(presets, "cuda_present", lambda: True)
    monkeypatch.setattr(presets, "availability", lambda entry: Availability(True))
    options = override(preset("standard"), {"orbit.engine": "v3d"})
    splats = options["splats"]
    assert (splats.engine, splats.gaussians, splats.steps, splats.sh_degree) == ("gsplat", 100_000, 4000, 0)
    assert (splats.loss, splats.ssim, splats.perceptual, splats.alpha) == ("mse", 1.0, 2.0, 0.0)
    assert (splats.densify, splats.start, splats.opacity, splats.most) == ("published", "published", 0.1, 0)
    assert (splats.size, splats.batch, splats.coarse, splats.hold_out) == (512, 1, 0.0, 0)
    rates = rates_called(splats.rates)
    assert (rates.harmonics, rates.opacity, rates.scale, rates.rotation) == (0.0025, 0.05, 0.005, 0.001)
    assert (rates.position, rates.last, rates.of_scene) == (1.6e-4, 0.01, True)
    extent = scene_extent(orbits.ring_of(orbits.V3D, 18, 0.0).cameras(512).centres)
    assert extent == pytest.approx(2.2)
    first, last = rates.columns(1.0, extent, 4), rates.columns(rates.last, extent, 4)
    np.testing.assert_allclose(first["positions"], 3.52e-4, rtol=1e-6)
    assert last["positions"] == pytest.approx(first["positions"] / 100)
    assert all(np.array_equal(last[name], first[name]) for name in first if name != "positions")
    assert options["surface"].engine == "neus" and options["texture"].engine == "refine_cuda"
    options = override(preset("standard"), {"orbit.engine": "hi3d"})
    assert options["surface"].engine == "neus" and options["surface"].neus_views == 16
    monkeypatch.setattr(presets, "availability", lambda entry: Availability(False, "not installed"))
    assert override(preset("standard"), {"orbit.engine": "v3d"})["surface"].engine == "auto"


def test_other_weights_are_another_version_of_the_engine(weights, tmp_path, monkeypatch):
    from backend.models.convert import convert

    monkeypatch.setenv("ORRERY_WEIGHTS", str(weights))
    before = Sv3dUOrbit().version
    assert before == Sv3dUOrbit().version != Hi3DRefine().version
    monkeypatch.setenv("ORRERY_WEIGHTS", str(tmp_path))
    (file,) = store.find_entry("sv3d_u").files
    path = tiny_models.write(tmp_path, "sv3d_u")
    convert(path, LAYOUTS["sv3d_u"], store.converted_folder("sv3d_u", file))
    assert Sv3dUOrbit().version != before


def test_v3ds_picture_has_the_object_at_seven_tenths_of_a_white_square():
    from backend.stages.matting.framing import frame

    options = override(preset("standard"), {"orbit.engine": "v3d"})
    rgba = np.zeros((300, 500, 4), np.float32)
    rgba[40:240, 300:400] = (0.8, 0.2, 0.1, 1)  # 200 pixels high
    framed, _ = frame(rgba, rgba[..., 3], options["matting"].size, options["matting"].fill)
    picture = orbits.as_picture(framed.rgba, options["orbit"].size)[0]
    assert picture.shape == (3, 512, 512)
    rows, columns = np.nonzero((picture < 0.9).any(dim=0).numpy())
    assert (np.ptp(rows) + 1) / 512 == pytest.approx(0.7, abs=0.006)
    assert rows.min() + rows.max() == pytest.approx(511, abs=2)
    assert columns.min() + columns.max() == pytest.approx(511, abs=2)
    assert all((picture[:, y, x] == 1).all() for y in (0, -1) for x in (0, -1))
