"""Matting: which engine, how well it cuts made-up scenes with known answers, and how the object is framed."""

import dataclasses

import numpy as np
import pytest

from backend.geometry.images import bleed
from backend.pipeline.engines import find_engine, load_engine
from backend.pipeline.options import MattingOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Picture
from backend.stages.matting import run as matting
from backend.stages.matting.alpha import has_cutout_alpha
from backend.stages.matting.edges import clean_edges, object_colours, soft_alpha
from backend.stages.matting.framing import frame
from backend.stages.matting.grabcut import letterbox, main_parts
from shared_protocol.errors import Cancelled, InvalidInput, StageFailed


def disc(size: int, x: float, y: float, radius: float) -> np.ndarray:
    """(size, size) float32 coverage of a disc, 4 x 4 samples a pixel."""
    at = (np.arange(size * 4) + 0.5) / 4
    inside = np.hypot(at[None, :] - x, at[:, None] - y) < radius
    return inside.reshape(size, 4, size, 4).mean(axis=(1, 3)).astype(np.float32)


def over(colour, alpha: np.ndarray, background: np.ndarray) -> np.ndarray:
    return (alpha[..., None] * np.asarray(colour, np.float32) + (1 - alpha[..., None]) * background).astype(
        np.float32
    )


def opaque(rgb: np.ndarray) -> Picture:
    return Picture(np.dstack([rgb, np.ones(rgb.shape[:2], np.float32)]).astype(np.float32))


def context_for(name: str) -> StageContext:
    return StageContext("matting", load_engine(find_engine("matting", name)), name)


def cut(rgb: np.ndarray) -> tuple[np.ndarray, float]:
    context = context_for("grabcut")
    return context.engine.cut(opaque(rgb), context)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a > 0.5, b > 0.5
    return float((a & b).sum() / (a | b).sum())


def test_a_cut_out_picture_uses_its_own_alpha():
    rgba = np.dstack([np.full((64, 64, 3), 0.5, np.float32), disc(64, 32, 32, 20)])
    assert matting.choose(Picture(rgba)) == "alpha"


def test_opaque_pictures_and_rounded_corners_are_not_cut_outs():
    alpha = np.ones((200, 200))
    assert not has_cutout_alpha(alpha)
    alpha[:15, :15] = alpha[-15:, -15:] = 0
    assert not has_cutout_alpha(alpha)


def test_without_weights_the_embedded_engine_is_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("ORRERY_WEIGHTS", str(tmp_path))
    assert matting.choose(opaque(np.zeros((64, 64, 3)))) == "grabcut"


def test_alpha_engine_refuses_an_opaque_picture():
    context = context_for("alpha")
    with pytest.raises(InvalidInput, match="no transparent pixel"):
        context.engine.cut(opaque(np.zeros((64, 64, 3))), context)


@pytest.mark.parametrize("backdrop", [(1, 1, 1), (0.5, 0.5, 0.5), (0.1, 0.3, 0.2)])
def test_disc_on_a_plain_backdrop_is_cut_to_a_tenth_of_a_pixel(backdrop):
    truth = disc(256, 130, 120, 60)
    alpha, confidence = cut(over((0.8, 0.15, 0.1), truth, np.full((256, 256, 3), backdrop)))
    assert iou(alpha, truth) > 0.99
    assert abs(alpha.sum() - truth.sum()) < 0.002 * truth.sum() + 2 * np.pi * 60 * 0.1
    assert np.abs(alpha - truth).mean() < 0.002
    assert confidence > 0.8


def test_uneven_backdrop_is_still_plain():
    y, x = np.mgrid[:256, :256] / 256
    backdrop = np.stack([0.6 + 0.25 * x - 0.1 * y] * 3, axis=-1) + np.array([0, 0.01, 0.03])
    backdrop += np.random.default_rng(0).normal(0, 0.004, backdrop.shape)
    truth = disc(256, 128, 128, 70)
    assert iou(cut(over((0.1, 0.25, 0.7), truth, backdrop))[0], truth) > 0.98


def test_soft_shadow_on_the_floor_is_not_object():
    y, x = np.mgrid[:320, :320] + 0.5
    backdrop = np.full((320, 320, 3), (0.80, 0.81, 0.83)) + 0.04 * (y / 320)[..., None]
    backdrop += np.random.default_rng(0).normal(0, 0.004, backdrop.shape)
    shade = 1 - 0.55 * np.exp(-(((x - 215) / 60) ** 2 + ((y - 232) / 16) ** 2))
    truth = disc(320, 160, 170, 65)
    alpha, _ = cut(over((0.85, 0.3, 0.1), truth, backdrop * shade[..., None]))
    assert iou(alpha, truth) > 0.97


def test_hole_that_shows_the_backdrop_is_background():
    truth = disc(256, 128, 128, 80) - disc(256, 128, 128, 40)
    alpha, _ = cut(over((0.7, 0.4, 0.1), truth, np.full((256, 256, 3), 0.9)))
    assert alpha[128, 128] == 0
    assert iou(alpha, truth) > 0.98


def test_a_small_hole_is_background_and_a_highlight_of_the_same_white_is_not():
    hole, ball = disc(512, 180, 256, 9), disc(512, 340, 256, 90)
    y, x = np.mgrid[:512, :512] + 0.5
    light = 1.2 * np.exp(-(((x - 320) / 9) ** 2 + ((y - 230) / 9) ** 2) / 2)  # burnt out
    truth = np.maximum(disc(512, 180, 256, 80), ball) - hole
    rgb = over((0.7, 0.4, 0.1), truth, np.ones((512, 512, 3)))
    rgb[ball > 0.99] = np.minimum(light[ball > 0.99][:, None] + (0.1, 0.3, 0.6), 1)
    assert (rgb[225:235, 315:325] == 1).all()
    alpha, _ = cut(rgb)
    assert alpha[256, 180] == 0
    assert (alpha[ball > 0.99] > 0.9).mean() > 0.99
    assert iou(alpha, truth) > 0.98


def test_busy_background_is_cut_with_low_confidence_and_a_warning():
    noise = np.random.default_rng(2).uniform(0, 0.5, (32, 32, 3))
    backdrop = np.kron(noise, np.ones((8, 8, 1)))
    truth = disc(256, 128, 128, 55)
    context = context_for("grabcut")
    options = dataclasses.replace(MattingOptions(), size=128)
    picture = opaque(over((1.0, 0.85, 0.1), truth, backdrop))
    matting.run(picture=picture, options=options, context=context)
    assert context.facts["confidence"] < matting.LOW_CONFIDENCE
    assert "models pull u2netp" in context.warnings[0]
    assert iou(context.engine.cut(picture, context)[0], truth) > 0.9


@pytest.mark.parametrize("colour", [(1, 1, 1), (0.2, 0.4, 0.9)])
def test_uniform_picture_has_no_object(colour):
    with pytest.raises(StageFailed, match="no object stands out"):
        cut(np.full((100, 120, 3), colour))


def test_smooth_gradient_has_no_object():
    y, x = np.mgrid[:200, :200] / 200
    with pytest.raises(StageFailed, match="no object stands out"):
        cut(np.stack([0.3 + 0.4 * x, 0.5 + 0.2 * y, np.full_like(x, 0.4)], axis=-1))


def test_letterbox_bars_are_found_and_white_margins_are_not():
    photo = np.random.default_rng(0).uniform(0.3, 0.9, (100, 160, 3))
    barred = np.zeros((160, 160, 3))
    barred[30:130] = photo
    top, bottom, left, right = letterbox(barred)
    assert 30 <= top <= 33 and 127 <= bottom <= 130 and (left, right) == (0, 160)
    plain = over((0.5, 0, 0), disc(160, 80, 80, 40), np.ones((160, 160, 3)))
    assert letterbox(plain) == (0, 160, 0, 160)


def test_same_picture_gives_the_same_alpha_bit_for_bit():
    noise = np.random.default_rng(2).uniform(0, 0.5, (256, 256, 3))
    rgb = over((1.0, 0.85, 0.1), disc(256, 128, 128, 55), noise)
    np.testing.assert_array_equal(cut(rgb)[0], cut(rgb)[0])


def test_cancel_stops_the_cut():
    context = context_for("grabcut")
    context.cancelled.set()
    with pytest.raises(Cancelled):
        context.engine.cut(opaque(np.random.default_rng(0).uniform(0, 1, (64, 64, 3))), context)


def test_soft_alpha_recovers_a_slanted_edge():
    y, x = np.mgrid[:128, :128] + 0.5
    truth = np.clip((x - 0.3 * y - 40) / 1.044 + 0.5, 0, 1).astype(np.float32)
    rgb = over((0.9, 0.2, 0.1), truth, np.full((128, 128, 3), 0.3))
    alpha = soft_alpha(rgb, truth > 0.5, 2)
    assert np.abs(alpha - truth).mean() < 0.002


def test_object_colours_carry_no_halo():
    truth = disc(128, 64, 64, 40)
    rgb = over((0.9, 0.1, 0.1), truth, np.ones((128, 128, 3)))
    colours = object_colours(rgb, truth)
    edge = (truth > 0.05) & (truth < 0.95)
    np.testing.assert_allclose(
        np.broadcast_to([0.9, 0.1, 0.1], colours[edge].shape), colours[edge], atol=0.03
    )


@pytest.mark.parametrize("size", [128, 512])
def test_framed_object_is_centred_and_fills_its_share(size):
    alpha = disc(400, 150, 260, 100)
    rgba = np.dstack([np.full((400, 400, 3), 0.4, np.float32), alpha])
    picture, facts = frame(rgba, alpha, size, 0.75)
    framed = picture.rgba[..., 3]
    assert framed.shape == (size, size)
    mass = framed / framed.sum()
    centre = (np.arange(size) + 0.5) @ mass.sum(0), (np.arange(size) + 0.5) @ mass.sum(1)
    np.testing.assert_allclose(size / 2, centre, atol=0.01 * size / 2)
    rows = np.flatnonzero((framed > 0.5).any(1))
    assert abs(len(rows) - 0.75 * size) <= 0.01 * size + 1
    np.testing.assert_allclose(np.pi / 4 * (0.75 * size) ** 2, framed.sum(), rtol=0.015)
    assert facts["picture_size"] == [400, 400]


def test_frame_is_subpixel_exact_for_an_enlargement():
    truth = disc(512, 256, 256, 192)
    small = disc(128, 64, 64, 48)
    picture, _ = frame(np.dstack([np.ones((128, 128, 3), np.float32), small]), small, 512, 0.75)
    assert iou(picture.rgba[..., 3], truth) > 0.99


def test_specks_and_veils_are_dropped():
    alpha = disc(200, 100, 100, 50) + disc(200, 190, 190, 3)
    alpha[:20, :] = 0.3
    picture, facts = frame(np.dstack([np.ones((200, 200, 3), np.float32), alpha]), alpha, 128, 0.75)
    assert facts["crop_box"] == [50, 50, 150, 150]
    assert picture.rgba[0, 0, 3] == 0


def test_object_at_the_picture_border_is_kept():
    alpha = np.zeros((100, 100), np.float32)
    alpha[:, :60] = 1
    picture, facts = frame(np.dstack([np.ones((100, 100, 3), np.float32), alpha]), alpha, 128, 0.75)
    assert facts["crop_box"] == [0, 0, 60, 100]
    assert picture.rgba[:10, :, 3].max() == 0


def test_tiny_object_is_refused_with_its_size():
    alpha = disc(256, 100, 100, 10)
    with pytest.raises(InvalidInput, match="20 x 20 pixels; expected at least 32"):
        frame(np.dstack([np.ones((256, 256, 3), np.float32), alpha]), alpha, 128, 0.75)


def test_empty_alpha_is_a_failed_stage():
    with pytest.raises(StageFailed, match="no object was found"):
        frame(np.ones((64, 64, 4), np.float32), np.zeros((64, 64), np.float32), 128, 0.75)


def test_bleed_carries_colour_outward_and_keeps_the_inside():
    alpha = disc(128, 64, 64, 30)
    colour = np.where(alpha[..., None] > 0, np.float32([0.9, 0.5, 0.1]), np.float32([0, 1, 0]))
    result = bleed(colour.astype(np.float32), alpha)
    np.testing.assert_allclose(np.broadcast_to(np.float32([0.9, 0.5, 0.1]), result.shape), result, atol=0.02)


def test_rembg_without_weights_says_what_to_run(monkeypatch, tmp_path):
    from shared_protocol.errors import EngineUnavailable

    monkeypatch.setenv("ORRERY_WEIGHTS", str(tmp_path))
    with pytest.raises(EngineUnavailable, match="models pull u2netp"):
        load_engine(find_engine("matting", "rembg"))


def test_distant_patch_is_dropped_and_a_near_part_or_a_twin_is_kept():
    body = disc(200, 70, 100, 45) > 0.5
    patch, near, twin = (disc(200, x, y, r) > 0.5 for x, y, r in ((180, 30, 9), (70, 46, 8), (165, 130, 28)))
    np.testing.assert_array_equal(body | near | twin, main_parts(body | patch | near | twin))


def test_wide_haze_far_from_the_object_is_removed_and_a_faint_thin_part_stays():
    soft = disc(320, 120, 160, 70)
    soft[158:161, 180:260] = 0.6  # a feeler
    soft[20:80, 240:310] = 0.55  # haze
    alpha = clean_edges(over((0.2, 0.3, 0.8), (soft > 0.5).astype(np.float32), np.ones((320, 320, 3))), soft)
    assert alpha[30:70, 250:300].max() == 0
    assert alpha[159, 240] > 0.5
    assert alpha[160, 120] == 1


def test_importing_rembg_leaves_the_compiler_on():
    from numba import config

    from backend.stages.matting.rembg import _import_rembg

    assert hasattr(_import_rembg(), "new_session")
    assert not config.DISABLE_JIT
