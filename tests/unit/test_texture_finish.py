"""Normal maps, coarser copies, colours without light: against shapes and paints that are known."""

import numpy as np
import pytest
import trimesh

from backend.evaluation.renders import FILL, KEY
from backend.geometry.cameras import ring
from backend.geometry.decimate import decimate
from backend.geometry.mesh_raster import rasterize_mesh
from backend.geometry.tangents import decode_normals, smooth_normals, tangent_frames
from backend.pipeline.options import TextureOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Mesh, TexturedMesh, Views
from backend.stages.texture import run as texture
from backend.stages.texture.atlas import Texels, lay_out_texels
from backend.stages.texture.delight import delighted, guess_roughness
from backend.stages.texture.finish import finish
from shared_protocol.conventions import linear_from_srgb, srgb_from_linear
from tests.support.solids import one_splat, render_views, solid_texture


def bumpy_ball():
    ball = trimesh.creation.icosphere(5, radius=0.5)
    p = np.asarray(ball.vertices)
    bumps = np.sin(24 * p[:, :1]) * np.sin(24 * p[:, 1:2]) * np.sin(24 * p[:, 2:])
    return (p * (1 + 0.03 * bumps)).astype(np.float32), np.asarray(ball.faces, dtype=np.int32)


def context_of(engine=None):
    return StageContext("texture", engine, "project")


class SolidEngine:
    """Lays the mesh out and paints it with the solid texture, exactly."""

    def bake(self, mesh, views, splats, options, context):
        from backend.stages.texture.atlas import unwrap
        from backend.stages.texture.fill import bleed

        uvs, _ = unwrap(mesh, options.size, context)
        texels = lay_out_texels(mesh, uvs, options.size)
        return TexturedMesh(mesh, uvs, bleed(texels, solid_texture(texels.positions), lambda: None))


NO_VIEWS = Views(
    np.zeros((1, 8, 8, 4), np.float32), ring(1, radius=2, elevation_degrees=0, fov_degrees=40, size=8)
)


def run(mesh, **options):
    return texture.run(
        views=NO_VIEWS, splats=one_splat(), mesh=mesh,
        options=TextureOptions(**({"size": 256} | options)), context=context_of(SolidEngine()),
    )  # fmt: skip


def test_shading_with_the_normal_map_is_nearer_to_the_dense_mesh_than_without():
    vertices, faces = bumpy_ball()
    detail = Mesh(vertices, faces)
    coarse = Mesh(*decimate(vertices, faces, 1200), detail=detail)
    textured = run(coarse, size=512, normal_map=True)
    texels = lay_out_texels(coarse, textured.uvs, 512)
    direction = texels.positions / np.linalg.norm(texels.positions, axis=1, keepdims=True)
    # The dense surface over the same direction from the middle.
    dense = trimesh.Trimesh(vertices, faces, process=False)
    from backend.geometry.surface_lookup import SurfaceLookup

    there = SurfaceLookup(vertices, faces).along(texels.positions, direction, 0.2)
    truth = there.interpolate(smooth_normals(dense.vertices, faces), faces)
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    frames = tangent_frames(
        coarse.vertices, coarse.faces, textured.uvs, smooth_normals(coarse.vertices, coarse.faces)
    )
    shown = decode_normals(
        textured.normal_map.reshape(-1, 3)[texels.index], frames, texels.face, texels.weights
    )

    def error(normals):
        return np.degrees(np.arccos(np.clip((normals * truth).sum(axis=1), -1, 1))).mean()

    assert error(shown) < 0.5 * error(texels.normals)  # measured 2 and 11 degrees


def test_flat_parts_of_a_normal_map_are_128_128_255():
    box = trimesh.creation.box((1, 1, 1)).subdivide().subdivide()
    mesh = Mesh(box.vertices, box.faces, detail=Mesh(box.vertices, box.faces))
    textured = run(mesh, normal_map=True)
    texels = lay_out_texels(mesh, textured.uvs, 256)
    pixels = np.rint(textured.normal_map.reshape(-1, 3)[texels.index] * 255)
    middle = (np.abs(texels.positions) < 0.2).sum(
        axis=1
    ) == 2  # away from the edges, whose normals are smooth
    assert middle.sum() > 500 and (pixels[middle] == [128, 128, 255]).all()


def test_coarser_copies_have_atlases_of_their_own_with_the_same_colours():
    vertices, faces = bumpy_ball()
    lods = tuple(Mesh(*decimate(vertices, faces, budget)) for budget in (2000, 500))
    textured = run(Mesh(vertices, faces, lods=lods), size=512)
    assert [len(lod.texture) for lod in textured.lods] == [256, 256]
    for lod in textured.lods:
        texels = lay_out_texels(lod.mesh, lod.uvs, len(lod.texture))
        painted = lod.texture.reshape(-1, 3)[texels.index]
        outward = texels.positions / np.linalg.norm(texels.positions, axis=1, keepdims=True)
        expected = solid_texture(outward * 0.5)  # where the fine surface is, but for its bumps
        assert np.abs(painted - expected).mean() < 0.1
        assert np.abs(painted - painted.mean(axis=0)).mean() > 0.1
    again = TexturedMesh.from_files(textured.to_files())
    assert np.array_equal(again.lods[1].uvs, textured.lods[1].uvs)


def test_a_normal_map_without_a_finer_mesh_is_a_warning():
    vertices, faces = bumpy_ball()
    mesh, context = Mesh(vertices, faces), context_of()
    plain = SolidEngine().bake(mesh, None, None, TextureOptions(size=64), context)
    done = finish(plain, mesh, NO_VIEWS, TextureOptions(size=64, normal_map=True), context)
    assert done.normal_map is None and "normal map" in context.warnings[0]


# ---- colours without light


def light_on(normals):
    """The evaluation's lights."""
    light = np.full(len(normals), 0.45)
    for direction, strength in ((KEY, 0.5), (FILL, 0.2)):
        toward = np.asarray(direction, dtype=float) / np.linalg.norm(direction)
        light += strength * np.maximum(normals @ toward, 0)
    return light


def points_on(mesh):
    index = np.arange(len(mesh.vertices))
    normals = smooth_normals(mesh.vertices, mesh.faces)
    weights = np.zeros((len(index), 3), np.float32)
    return Texels(64, index, index, weights, np.asarray(mesh.vertices, np.float32), normals)


@pytest.mark.parametrize("paint", ["grey", "two greys", "patches", "solid"])
def test_known_paint_under_known_lights_is_found_again(paint):
    ball = trimesh.creation.icosphere(5, radius=0.5)
    texels = points_on(ball)
    p = texels.positions
    albedo = {
        "grey": np.full_like(p, 0.5),
        "two greys": np.where(p[:, 2:] > 0.05, 0.7, 0.3) * np.ones((1, 3)),
        "patches": np.where(
            np.floor(4 * p).sum(axis=1, keepdims=True) % 2 > 0, [0.7, 0.2, 0.1], [0.2, 0.5, 0.7]
        ),
        "solid": 0.8 * solid_texture(p) + 0.1,
    }[paint]
    light = light_on(texels.normals)
    lit = srgb_from_linear(linear_from_srgb(albedo) * (light / light.max())[:, None])
    found, removed = delighted(texels, lit, np.random.default_rng(0), lambda: None)

    def brightness(colors):
        return np.log(np.maximum(linear_from_srgb(colors).mean(axis=1), 1e-3))

    def error(colors):
        return np.std(brightness(colors) - brightness(albedo))

    def follows_light(colors):
        return abs(np.corrcoef(brightness(colors), np.log(light))[0, 1])

    assert error(found) < 0.5 * error(lit)  # measured .19 to .44
    own = 0 if paint == "grey" else follows_light(albedo)  # a light half above is paint, not shading
    assert follows_light(found) - own < 0.85 * (follows_light(lit) - own)
    assert 1.6 < removed < 3.2  # true: 2.06
    assert linear_from_srgb(found).mean() == pytest.approx(linear_from_srgb(lit).mean(), rel=0.03)


def test_highlights_that_move_make_the_guess_glossy_and_noise_does_not():
    ball = trimesh.creation.icosphere(4, radius=0.5)
    mesh = Mesh(ball.vertices, ball.faces)
    cameras = ring(12, radius=2.0, elevation_degrees=10, fov_degrees=40, size=160)
    matte = render_views(mesh.vertices, mesh.faces, cameras)
    glossy, noisy = matte.rgba.copy(), matte.rgba.copy()
    noise = np.random.default_rng(0).normal(scale=0.05, size=noisy[..., :3].shape)
    noisy[..., :3] = np.clip(noisy[..., :3] + noise, 0, 1)
    for view in range(len(cameras)):
        seen = rasterize_mesh(
            mesh.vertices, mesh.faces, cameras.world_from_camera[view], cameras.intrinsics[view], 160, 160
        )
        place = seen.interpolate(mesh.vertices, mesh.faces)
        away = cameras.centres[view] - place
        away /= np.linalg.norm(away, axis=-1, keepdims=True)
        half = away + np.asarray(KEY, float) / np.linalg.norm(KEY)
        half /= np.linalg.norm(half, axis=-1, keepdims=True)
        shine = 0.6 * np.clip((half * place / 0.5).sum(axis=-1), 0, 1) ** 20
        glossy[view, ..., :3] = np.clip(glossy[view, ..., :3] + shine[..., None], 0, 1)
    guesses = [
        guess_roughness(mesh, Views(rgba.astype(np.float32), cameras), lambda: None)
        for rgba in (matte.rgba, noisy, glossy)
    ]
    assert guesses[0] > 0.8 and guesses[1] > 0.8
    assert guesses[2] < 0.7


def test_roughness_and_albedo_reach_the_result():
    vertices, faces = bumpy_ball()
    mesh = Mesh(vertices, faces)
    views = render_views(vertices, faces, ring(6, radius=2.0, elevation_degrees=10, fov_degrees=40, size=64))
    context = context_of(SolidEngine())
    done = texture.run(
        views=views,
        splats=one_splat(),
        mesh=mesh,
        options=TextureOptions(size=128, delight=True),
        context=context,
    )
    assert done.roughness == pytest.approx(context.facts["roughness_guess"], abs=1e-3)
    assert context.facts["shading_removed"] >= 1
