"""Models a painted toy rocket in code and renders it with Cycles: the example picture rocket.png.

Run in Blender's Python (the bpy module): python examples/render_rocket.py [OUT.png]
The picture is dedicated to the public domain (CC0 1.0), see examples/README.md.
"""

import itertools
import math
import sys
from pathlib import Path

import bpy
from mathutils import Vector

# The body's profile: radius over height, metres, from the nozzle to the tip.
PROFILE = [
    (0.16, 0.16), (0.20, 0.20), (0.255, 0.30), (0.295, 0.42), (0.31, 0.55), (0.305, 0.68),
    (0.28, 0.80), (0.24, 0.90), (0.185, 0.99), (0.125, 1.06), (0.065, 1.11), (0.02, 1.135), (0.0, 1.14),
]  # fmt: skip
SEGMENTS = 96


def paint(name, color, *, roughness=0.35, grain=0.0):
    """A painted surface; `grain` mixes in a fine noise so that it has texture."""
    material = bpy.data.materials.new(name)
    tree = material.node_tree or _nodes(material)
    shader = tree.nodes["Principled BSDF"]
    shader.inputs["Roughness"].default_value = roughness
    shader.inputs["Base Color"].default_value = (*color, 1)
    if grain:
        noise = tree.nodes.new("ShaderNodeTexNoise")
        noise.inputs["Scale"].default_value = 14
        noise.inputs["Detail"].default_value = 6
        ramp = tree.nodes.new("ShaderNodeValToRGB")
        ramp.color_ramp.elements[0].position, ramp.color_ramp.elements[1].position = 0.35, 0.65
        ramp.color_ramp.elements[0].color = (*(c * (1 - grain) for c in color), 1)
        ramp.color_ramp.elements[1].color = (*(min(1, c * (1 + grain)) for c in color), 1)
        tree.links.new(noise.outputs[0], ramp.inputs[0])
        tree.links.new(ramp.outputs[0], shader.inputs["Base Color"])
    return material


def _nodes(material):
    material.use_nodes = True
    return material.node_tree


def mesh_object(name, vertices, faces, materials, *, smooth=True, indices=None):
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(vertices, [], faces)
    for material in materials:
        mesh.materials.append(material)
    for i, polygon in enumerate(mesh.polygons):
        polygon.use_smooth = smooth
        polygon.material_index = indices[i] if indices else 0
    thing = bpy.data.objects.new(name, mesh)
    bpy.context.scene.collection.objects.link(thing)
    return thing


def body(cream, red, navy):
    """A lathe of PROFILE: red nose, cream hull with a navy checker band."""
    fine = []
    for (r0, z0), (r1, z1) in itertools.pairwise(PROFILE):
        fine += [(r0 + (r1 - r0) * t / 4, z0 + (z1 - z0) * t / 4) for t in range(4)]
    fine.append(PROFILE[-1])
    vertices, faces, indices = [], [], []
    for radius, height in fine:
        for s in range(SEGMENTS):
            angle = 2 * math.pi * s / SEGMENTS
            vertices.append((radius * math.cos(angle), radius * math.sin(angle), height))
    for ring in range(len(fine) - 1):
        height = (fine[ring][1] + fine[ring + 1][1]) / 2
        for s in range(SEGMENTS):
            a, b = ring * SEGMENTS + s, ring * SEGMENTS + (s + 1) % SEGMENTS
            faces.append((a, b, b + SEGMENTS, a + SEGMENTS))
            if height > 0.86:
                indices.append(1)
            elif 0.30 < height < 0.42:
                indices.append(2 if (s // 6 + (height > 0.36)) % 2 else 0)
            else:
                indices.append(0)
    faces.append(tuple(reversed(range(SEGMENTS))))
    indices.append(2)
    return mesh_object("body", vertices, faces, [cream, red, navy], indices=indices)


def fin(angle, red):
    """One swept fin, a thick extruded outline."""
    outline = [(0.23, 0.46), (0.40, 0.36), (0.50, 0.20), (0.52, 0.0), (0.44, 0.0), (0.36, 0.13), (0.17, 0.19)]
    vertices = [(x, side * 0.028, z) for side in (-1, 1) for x, z in outline]
    n = len(outline)
    faces = [tuple(range(n))[::-1], tuple(range(n, 2 * n))]
    faces += [(i, (i + 1) % n, n + (i + 1) % n, n + i) for i in range(n)]
    thing = mesh_object("fin", vertices, faces, [red], smooth=False)
    thing.rotation_euler.z = angle
    bevel = thing.modifiers.new("soft edges", "BEVEL")
    bevel.width, bevel.segments = 0.016, 3


def window(angle, height, radius, size, brass, glass):
    """A porthole: a brass ring around a dark pane."""
    place = Vector((radius * math.cos(angle), radius * math.sin(angle), height))
    turn = (0, math.pi / 2, angle)
    bpy.ops.mesh.primitive_torus_add(
        major_radius=size, minor_radius=size * 0.2, major_segments=64, minor_segments=24,
        location=place, rotation=turn,
    )  # fmt: skip
    bpy.context.object.data.materials.append(brass)
    bpy.ops.object.shade_smooth()
    bpy.ops.mesh.primitive_uv_sphere_add(
        radius=size, segments=48, ring_count=24, location=place, rotation=turn
    )
    bpy.context.object.scale = (1, 1, 0.35)
    bpy.context.object.data.materials.append(glass)
    bpy.ops.object.shade_smooth()


def stage():
    """A pale sweep behind and below, three soft lights, a long lens."""
    backdrop = paint("backdrop", (0.62, 0.64, 0.66), roughness=0.9)
    rows = [(-4.0, 0.0), (1.2, 0.0)]
    bend = [math.pi / 2 * i / 24 for i in range(1, 25)]
    rows += [(1.2 + 1.6 * math.sin(a), 1.6 - 1.6 * math.cos(a)) for a in bend]
    rows.append((2.8, 8.0))
    vertices = [(x, y, z) for y, z in rows for x in (-8, 8)]
    faces = [(2 * i, 2 * i + 1, 2 * i + 3, 2 * i + 2) for i in range(len(rows) - 1)]
    mesh_object("sweep", vertices, faces, [backdrop])
    for name, location, energy, size in (
        ("key", (-2.4, -2.6, 3.4), 190, 1.6),
        ("fill", (3.0, -2.4, 1.6), 60, 2.5),
        ("rim", (1.5, 2.2, 3.2), 90, 1.2),
    ):
        light = bpy.data.objects.new(name, bpy.data.lights.new(name, "AREA"))
        light.data.energy, light.data.size = energy, size
        light.location = location
        light.rotation_euler = (Vector((0, 0, 0.5)) - Vector(location)).to_track_quat("-Z", "Y").to_euler()
        bpy.context.scene.collection.objects.link(light)
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    camera.data.lens = 85
    camera.location = (0, -4.6, 1.02)
    camera.rotation_euler = (Vector((0, 0, 0.56)) - camera.location).to_track_quat("-Z", "Y").to_euler()
    bpy.context.scene.collection.objects.link(camera)
    bpy.context.scene.camera = camera


def main(out: Path, size: int = 768, samples: int = 192) -> None:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    cream = paint("cream", (0.83, 0.74, 0.55), grain=0.16)
    red = paint("red", (0.62, 0.045, 0.03), grain=0.22)
    navy = paint("navy", (0.02, 0.05, 0.16), grain=0.25)
    brass = paint("brass", (0.72, 0.43, 0.10), roughness=0.3)
    glass = paint("glass", (0.05, 0.20, 0.30), roughness=0.08)
    body(cream, red, navy)
    for i in range(4):
        fin(math.radians(45 + 90 * i), red)
    for turn in range(4):
        window(math.radians(-90 + 90 * turn), 0.62, 0.305, 0.105, brass, glass)
    stage()
    world = bpy.data.worlds.new("world")
    world.color = (0.35, 0.37, 0.40)
    bpy.context.scene.world = world
    render = bpy.context.scene.render
    render.engine = "CYCLES"
    bpy.context.scene.cycles.samples = samples
    bpy.context.scene.cycles.use_denoising = True
    bpy.context.scene.view_settings.view_transform = "Standard"
    render.resolution_x = render.resolution_y = size
    render.image_settings.file_format = "PNG"
    render.image_settings.color_mode = "RGB"
    render.filepath = str(out)
    bpy.ops.render.render(write_still=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("rocket.png")).resolve())
