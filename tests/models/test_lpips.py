"""LPIPS with VGG-16 as V3D weighs it: the published files, the distance, and its place in the fits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from backend.cli import run as main
from backend.models import lpips
from backend.models.lpips import Lpips, LpipsHeads, VggTrunk
from backend.pipeline.engines import Availability
from backend.pipeline.options import SplatsOptions, override, preset
from backend.pipeline.stage import StageContext
from backend.stages.splats import run
from backend.stages.splats.cpu import CpuSplats
from backend.stages.splats.gsplat import GsplatSplats
from backend.stages.splats.perceptual import load_torch_term
from backend.stages.texture import refine_cuda
from backend.stages.texture.refine_cuda import WAYS
from backend.weights import lpips_vgg, store
from tests.unit.test_mesh_nvdiffrast import flat_problem, standin


def published(folder) -> tuple:
    """The two files with their publishers' names, random: trunk (with its classifier, small) and heads."""
    torch.manual_seed(0)
    trunk = VggTrunk().state_dict() | {
        "classifier.0.weight": torch.zeros(2),
        "classifier.6.bias": torch.zeros(2),
    }
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((64, 128, 256, 512, 512))}
    paths = folder / "vgg16-397923af.pth", folder / "heads.pth"
    for path, tensors in zip(paths, (trunk, heads), strict=True):
        torch.save(tensors, path)
    return (*paths, trunk, heads)


def plainly(trunk, heads, ours, theirs) -> float:
    """The distance written out, in float64: Zhang 2018, equation 1, at relu1_2, 2_2, 3_3, 4_3, 5_3."""
    weigh = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64)[:, None, None]
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64)[:, None, None]
    layers = [[0, 2], [5, 7], [10, 12, 14], [17, 19, 21], [24, 26, 28]]
    pair = [((torch.from_numpy(p).double() - shift) / weigh)[None] for p in (ours, theirs)]
    total = 0.0
    for i, numbers in enumerate(layers):
        if i:
            pair = [torch.nn.functional.max_pool2d(p, 2) for p in pair]
        for n in numbers:
            weight, bias = (trunk[f"features.{n}.{end}"].double() for end in ("weight", "bias"))
            pair = [torch.relu(torch.nn.functional.conv2d(p, weight, bias, padding=1)) for p in pair]
        a, b = (p / p.norm(dim=1, keepdim=True).clamp_min(1e-20) for p in pair)
        total += float((heads[f"lin{i}.model.1.weight"].double() * (a - b) ** 2).sum(1).mean())
    return total


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return published(tmp_path_factory.mktemp("vgg"))


@pytest.fixture
def here(files, tmp_path, monkeypatch):
    """Both files taken by `models pull --from`; the heads' checksum is that of ours."""
    path = tmp_path / "catalog.toml"
    text = store.CATALOG_PATH.read_text(encoding="utf-8")
    own = f'size = {files[1].stat().st_size}\nsha256 = "{store.sha256_of(files[1])}"'
    before = 'size = 7289\nsha256 = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"'
    assert before in text
    path.write_text(text.replace(before, own), encoding="utf-8")
    monkeypatch.setattr(store, "CATALOG_PATH", path)
    monkeypatch.setenv("ORRERY_WEIGHTS", str(tmp_path / "weights"))
    assert main(["models", "pull", "lpips_vgg", "--from", str(files[0]), "--from", str(files[1])]) == 0


def test_the_published_files_give_the_distance_of_the_paper(files, here, capsys):
    assert lpips_vgg.present()
    random = np.random.default_rng(0)
    ours, theirs = random.random((2, 3, 40, 52), dtype=np.float32)
    context = StageContext("splats", None, "x")
    expected = plainly(files[2], files[3], ours, theirs)
    found = lpips.load(context, centred=False)(torch.from_numpy(ours), torch.from_numpy(theirs))
    assert float(found) == pytest.approx(expected, rel=1e-5)
    # normalize=True of the refinement: 0..1 brought to -1..1 first
    expected = plainly(files[2], files[3], 2 * ours - 1, 2 * theirs - 1)
    found = lpips.load(context, centred=True)(torch.from_numpy(ours), torch.from_numpy(theirs))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_a_wrong_file_is_named(files, here, tmp_path, capsys):
    bent = torch.load(files[0], weights_only=True)
    bent["features.5.weight"] = torch.zeros(128, 64, 1, 1)
    torch.save(bent, tmp_path / "bent.pth")
    assert main(["models", "pull", "lpips_vgg", "--from", str(tmp_path / "bent.pth")]) == 2
    assert "features.5.weight has shape (128, 64, 1, 1), expected (128, 64, 3, 3)" in capsys.readouterr().err
    assert main(["models", "pull", "sv3d_u", "--accept-licence", "--from", str(files[0])]) == 2
    assert "is VGG-16" in capsys.readouterr().err


def test_the_gradient_is_finite_where_pictures_are_plain_and_alike():
    torch.manual_seed(1)
    net = Lpips(VggTrunk().requires_grad_(False), LpipsHeads().requires_grad_(False), centred=False)
    picture = torch.ones(3, 32, 40, requires_grad=True)
    net(picture, torch.ones(3, 32, 40)).backward()
    assert torch.isfinite(picture.grad).all()
    assert net(torch.ones(3, 8, 40), torch.zeros(3, 8, 40)) == 0
    assert all(net.wanted(step, step / 9) for step in range(10))


def test_the_fits_take_it_where_it_is_asked_for_and_say_where_it_cannot_be(here, tmp_path, monkeypatch):
    options = SplatsOptions(perceptual=2.0, perceptual_net="vgg")
    context = StageContext("splats", None, "x")
    assert run.settle(options, GsplatSplats()) == (options, [])
    assert isinstance(load_torch_term(options, context, "cpu"), Lpips)
    settled, words = run.settle(options, CpuSplats())
    assert settled.perceptual_net == "stlpips" and "only 'gsplat' has LPIPS" in words[0]
    monkeypatch.setenv("ORRERY_WEIGHTS", str(tmp_path / "none"))
    settled, words = run.settle(options, GsplatSplats())
    assert settled == replace(options, perceptual=0.0) and "models pull lpips_vgg" in words[0]


def test_v3ds_whole_way_to_gaussians_runs_where_torch_is(here, monkeypatch):
    """The preset as it is but for sizes, through the engine's own verb; GSplat's drawing by its stand-in."""
    from backend.pipeline import presets
    from backend.stages.splats import gsplat
    from backend.stages.splats.divide import Published
    from tests.support.gsplat_standin import rasterization
    from tests.unit.test_splat_fit import _ball

    monkeypatch.setattr(presets, "cuda_present", lambda: True)
    monkeypatch.setattr(presets, "availability", lambda entry: Availability(True))
    monkeypatch.setattr("gsplat.rasterization", rasterization)
    monkeypatch.setattr(gsplat, "require_cuda", lambda: None)
    monkeypatch.setattr(GsplatSplats, "device", "cpu")
    monkeypatch.setattr(Published, "FIRST", 2)
    monkeypatch.setattr(Published, "EVERY", 3)
    asked = override(preset("standard"), {"orbit.engine": "v3d"})["splats"]
    options = replace(asked, gaussians=100, steps=8, size=40)
    context = StageContext("splats", GsplatSplats(), "gsplat", seed=1)
    options, words = run.settle(options, context.engine)
    splats = run.run(views=_ball(40), options=options, context=context)
    assert not words and not context.warnings
    assert context.facts["perceptual_weight"] == 2.0 and context.facts["steps"] == 8
    assert len(splats) > 150 and context.facts["gaussians"] == len(splats)


def test_v3ds_preset_has_the_published_perceptual_terms_where_their_weights_are(here, tmp_path, monkeypatch):
    from backend.pipeline import presets

    monkeypatch.setattr(presets, "cuda_present", lambda: True)
    monkeypatch.setattr(presets, "availability", lambda entry: Availability(True))
    options = override(preset("standard"), {"orbit.engine": "v3d"})
    assert (options["splats"].perceptual, options["splats"].perceptual_net) == (2.0, "vgg")
    way = WAYS[options["texture"].refinement]
    assert (way.objective.perceptual, way.objective.ssim, way.objective.nearness) == (1.0, 0.0, 0.0)
    assert (way.rate, way.falls, way.views, way.lpips) == (1e-3, False, 16, True)
    monkeypatch.setenv("ORRERY_WEIGHTS", str(tmp_path / "none"))
    options = override(preset("standard"), {"orbit.engine": "v3d"})
    assert (options["splats"].perceptual, options["splats"].perceptual_net) == (2.0, "stlpips")
    assert options["texture"].refinement == "measured"


def test_the_published_refinement_brings_a_wrong_texture_nearer_from_sixteen_of_the_views(monkeypatch):
    """MSE + LPIPS of random features; views beyond sixteen are not looked at."""
    textured, views, _ = flat_problem()
    torch.manual_seed(2)
    net = Lpips(VggTrunk().requires_grad_(False), LpipsHeads().requires_grad_(False), centred=True)
    for head in net._heads.children():
        head.model[1].weight.abs_()
    seen = set()
    draw = refine_cuda.draw_inside
    monkeypatch.setattr(refine_cuda, "draw_inside", lambda *given: (seen.add(given[4]), draw(*given))[1])
    context = StageContext("texture", None, "refine_cuda")
    way = replace(WAYS["published"], views=3)
    refined = refine_cuda.refine(
        textured, views, np.ones(4), context, standin, "cpu", term=net, steps=12, way=way
    )
    assert seen == {0, 1, 2}  # of four, evenly: 0, 1.33, 2.67
    assert context.facts["texture_error_after"] < 0.95 * context.facts["texture_error_before"]
    assert 0.01 < np.abs(refined - textured.texture).max() < 0.03  # twelve steps of 1e-3, fine and coarse
