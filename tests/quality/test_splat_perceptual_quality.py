"""What the perceptual term does to views that the fit did not see."""

import json
from dataclasses import replace

import numpy as np
import pytest

from backend.geometry.cameras import Cameras
from backend.geometry.perceptual import PerceptualNet, perceptual_distance
from backend.geometry.photometric import psnr
from backend.geometry.rasterize import rasterize
from backend.geometry.splat_targets import over_white
from backend.inputs.views import read_views
from backend.pipeline.options import preset
from backend.pipeline.stage import StageContext
from backend.stages.splats import run
from backend.stages.splats.cpu import CpuSplats
from backend.stages.splats.perceptual import WEIGHT
from backend.weights import stlpips
from benchmarks.results import read_rgba
from tests.support.shared import shared_path

pytestmark = [pytest.mark.quality, pytest.mark.slow]


def test_views_between_look_closer_and_lose_little_psnr():
    folder = shared_path("data", "protocol", "duck")
    if not stlpips.present():
        pytest.skip(f"the weights are not here. {stlpips.REMEDY}")
    views, _ = read_views(folder, lambda picture: picture)
    frames = json.loads((folder / "cameras.json").read_text())["heldout"][:4]
    poses = np.array([frame["world_from_camera"] for frame in frames])
    truth = [over_white(read_rgba(folder / frame["file_path"])) for frame in frames]
    cameras = Cameras(poses, views.cameras.intrinsics[:4], views.cameras.width, views.cameras.height)
    net = PerceptualNet.of(stlpips.load())
    scores = {}
    for weight in (0.0, WEIGHT):
        options = replace(preset("draft")["splats"], perceptual=weight)
        splats = run.run(views=views, options=options, context=StageContext("splats", CpuSplats(), "cpu"))
        drawn = np.clip(rasterize(splats, cameras, differentiable=False).color, 0, 1)
        pairs = list(zip(drawn, truth, strict=True))
        planes = [[np.ascontiguousarray(p.transpose(2, 0, 1), np.float32) for p in pair] for pair in pairs]
        scores[weight] = (
            np.mean([psnr(a, b) for a, b in pairs]),
            np.mean([perceptual_distance(net, a, b) for a, b in planes]),
        )
    (plain_psnr, plain_distance), (psnr_with, distance_with) = scores.values()
    # Measured: 33.86 -> 33.90 dB, 0.0206 -> 0.0195.
    assert psnr_with > plain_psnr - 0.2
    assert distance_with < 0.97 * plain_distance
