"""The export engine: mesh.glb, splats (PLY and one more format), cameras.json, pictures and film."""

from backend.geometry.parallel import map_told
from backend.pipeline.options import ExportOptions
from backend.pipeline.stage import StageContext
from backend.pipeline.values import Exports, Picture, Splats, TexturedMesh, Views
from backend.stages.export.cameras import transforms_json
from backend.stages.export.contact_sheet import SHEET_STEPS, contact_sheet
from backend.stages.export.film import encode_film, turntable_frames
from backend.stages.export.glb import write_glb
from backend.stages.export.images import encode_png
from backend.stages.export.mesh_formats import write_mesh
from shared_protocol.splats.arrays import SplatArrays
from shared_protocol.splats.files import encode_splats


class FilesExport:
    """Writes every format of the embedded path."""

    version = "2"

    def write(
        self,
        picture: Picture,
        views: Views,
        splats: Splats,
        textured: TexturedMesh,
        options: ExportOptions,
        context: StageContext,
    ) -> Exports:
        """All files by relative path. Works on whole arrays; each step takes well under half a second."""
        names = [f"orbit/{view:03d}.png" for view in range(len(views))]
        total = len(names) + 2 + (SHEET_STEPS + options.film_frames if options.turntable else 0)
        done = 0

        def step(text: str) -> None:
            nonlocal done
            context.step(min(done, total), total, text)
            done += 1

        pictures = map_told(
            lambda view: encode_png(views.rgba[view]),
            range(len(names)),
            lambda view: step(f"Writing view {view + 1} of {len(names)}"),
        )
        files: dict[str, bytes] = dict(zip(names, pictures, strict=True))
        files["cutout.png"] = files[names[0]]
        files["cameras.json"] = transforms_json(views.cameras, names)
        step("Writing the mesh")
        for level, mesh in enumerate((textured, *textured.lods)):
            context.check()
            name = f"mesh_lod{level}" if level else "mesh"
            files[f"{name}.glb"] = write_glb(mesh)
            for kind in dict.fromkeys(options.mesh_formats.split(",")):
                if kind != "glb":
                    files |= write_mesh(mesh, kind, options.up, name)
        step("Writing the Gaussians")
        arrays = SplatArrays(
            splats.positions, splats.scales, splats.rotations, splats.opacities, splats.harmonics
        )
        for kind in dict.fromkeys(("ply", options.splat_format)):
            files[f"splats.{kind}"] = encode_splats(arrays, kind)
        if options.turntable:
            files["turntable.png"] = encode_png(contact_sheet(picture, views, splats, textured, step))
            count = options.film_frames
            frames = turntable_frames(
                views, splats, textured, count, lambda frame: step(f"Filming, frame {frame + 1} of {count}")
            )
            files["turntable.mp4"] = encode_film(frames)
        context.step(total, total, "Files written")
        return Exports(files)
