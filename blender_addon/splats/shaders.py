"""The GPU programs: Gaussians as ellipses on the screen, and what they make laid over a picture.

The image formation is that of 3D Gaussian Splatting (Kerbl 2023) in the details of GSplat 1.5: EWA
projection (Zwicker 2001) with the Jacobian's direction clamped to 1.3 times the field of view, 0.3 pixels
added to the variance, alpha at most 0.999 and nothing below 1/255, colours in sRGB encoding. An object's
matrix may be any affine one: covariances are carried through it as they are.

A Gaussian is a quad along the ellipse's axes, in units of standard deviations: alpha needs one exp and no
matrix. 64 quads make an instance, since an instance of one quad alone leaves most of a GPU idle.

Textures are rows of `ATLAS_ROW` Gaussians:

    geometry_0, 1, 2   x y z opacity | covariance xx xy xz yy | yz zz
    colors_0           coefficients 0 and 1 of the harmonics, a texel each, half floats; colors_1 2 and 3 ...
    placement          five texels an object: 3 rows of view-from-object, the eye in object space (w = 0:
                       the direction of sight), settings: degree (-1: hidden), 2D filter, factor of the
                       opacity, 0
    order              two numbers a Gaussian, far to near: its row in the atlas, its object's in `placement`

They are many so that each is small: making one may take as long as clearing its memory. With `order` and the
scene's depth they are 14 of the 16 that every driver offers.
"""

from functools import cache

import gpu
import numpy as np

QUADS = 64
"""Gaussians an instance."""
ATLAS_ROW = 2048
"""Gaussians a row of a texture with at most two texels each."""
ORDER_ROW = 4096
PLACEMENT_TEXELS = 5
GEOMETRY = {"geometry_0": (1, "RGBA32F"), "geometry_1": (1, "RGBA32F"), "geometry_2": (1, "RG32F")}
"""Texels a Gaussian, and their kind."""
COLOR_TEXELS = 2
COLORS = tuple(f"colors_{number}" for number in range(8))

_VERTEX = """
#define TERM(image, texel) \\
  texelFetch(image, ivec2((row % ATLAS_ROW) * COLOR_TEXELS + texel, row / ATLAS_ROW), 0).rgb

vec3 radiance(int row, vec3 d, int degree)
{
  vec3 color = 0.5 + 0.28209479177387814 * TERM(colors_0, 0);
  if (degree < 1) {
    return color;
  }
  float x = d.x, y = d.y, z = d.z;
  color += 0.4886025119029199 * (z * TERM(colors_1, 0) - y * TERM(colors_0, 1) - x * TERM(colors_1, 1));
  if (degree < 2) {
    return color;
  }
  float xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
  color += 1.0925484305920792 * (xy * TERM(colors_2, 0) - yz * TERM(colors_2, 1) - xz * TERM(colors_3, 1));
  color += 0.31539156525252005 * (2.0 * zz - xx - yy) * TERM(colors_3, 0);
  color += 0.5462742152960396 * (xx - yy) * TERM(colors_4, 0);
  if (degree < 3) {
    return color;
  }
  color -= 0.5900435899266435 * y * (3.0 * xx - yy) * TERM(colors_4, 1);
  color += 2.890611442640554 * xy * z * TERM(colors_5, 0);
  color -= 0.4570457994644658 * y * (4.0 * zz - xx - yy) * TERM(colors_5, 1);
  color += 0.3731763325901154 * z * (2.0 * zz - 3.0 * xx - 3.0 * yy) * TERM(colors_6, 0);
  color -= 0.4570457994644658 * x * (4.0 * zz - xx - yy) * TERM(colors_6, 1);
  color += 1.445305721320277 * z * (xx - yy) * TERM(colors_7, 0);
  color -= 0.5900435899266435 * x * (xx - 3.0 * yy) * TERM(colors_7, 1);
  return color;
}

void main()
{
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0);  /* outside: nothing is drawn */
  local = vec2(0.0);
  color = vec4(0.0);
  window_depth = 0.0;
  int place = gl_InstanceID * QUADS + int(corner.z);
  if (place >= count) {
    return;
  }
  vec4 entry = texelFetch(order, ivec2(place % ORDER_ROW, place / ORDER_ROW), 0);
  int row = int(entry.x), owner = int(entry.y);
  vec4 first = texelFetch(placement, ivec2(0, owner), 0);
  vec4 second = texelFetch(placement, ivec2(1, owner), 0);
  vec4 third = texelFetch(placement, ivec2(2, owner), 0);
  vec4 eye = texelFetch(placement, ivec2(3, owner), 0);
  vec4 settings = texelFetch(placement, ivec2(4, owner), 0);
  if (settings.x < 0.0) {
    return;
  }
  ivec2 cell = ivec2(row % ATLAS_ROW, row / ATLAS_ROW);
  vec4 head = texelFetch(geometry_0, cell, 0), covariance = texelFetch(geometry_1, cell, 0);
  vec2 tail = texelFetch(geometry_2, cell, 0).xy;

  vec4 point = vec4(head.xyz, 1.0);
  vec3 seen = vec3(dot(first, point), dot(second, point), dot(third, point));
  float away = -seen.z;
  bool perspective = frame.z > 0.5;
  if (perspective && away < 0.01) {
    return;
  }
  float depth = (depth_terms.x * seen.z + depth_terms.y) / (depth_terms.z * seen.z + depth_terms.w);
  if (!perspective && abs(depth) > 1.0) {
    return;
  }

  vec2 middle;
  vec3 along_x, along_y;  /* rows of the Jacobian */
  if (perspective) {
    middle = pinhole.zw + pinhole.xy * seen.xy / away;
    vec2 tangent = 0.15 * frame.xy / pinhole.xy;  /* 0.3 times the tangent of half the field of view */
    vec2 slope = clamp(seen.xy / away, -pinhole.zw / pinhole.xy - tangent,
                       (frame.xy - pinhole.zw) / pinhole.xy + tangent);
    along_x = pinhole.x / away * vec3(1.0, 0.0, slope.x);
    along_y = pinhole.y / away * vec3(0.0, 1.0, slope.y);
  }
  else {
    middle = pinhole.zw + pinhole.xy * seen.xy;
    along_x = vec3(pinhole.x, 0.0, 0.0);
    along_y = vec3(0.0, pinhole.y, 0.0);
  }
  /* The rows, carried back into the object. */
  vec3 s = along_x.x * first.xyz + along_x.y * second.xyz + along_x.z * third.xyz;
  vec3 t = along_y.x * first.xyz + along_y.y * second.xyz + along_y.z * third.xyz;
  vec3 cov_s = vec3(dot(covariance.xyz, s), dot(vec3(covariance.yw, tail.x), s),
                    dot(vec3(covariance.z, tail.xy), s));
  vec3 cov_t = vec3(dot(covariance.xyz, t), dot(vec3(covariance.yw, tail.x), t),
                    dot(vec3(covariance.z, tail.xy), t));
  float a = dot(s, cov_s), b = dot(s, cov_t), c = dot(t, cov_t);
  float before = max(a * c - b * b, 0.0);
  a += 0.3;
  c += 0.3;
  float after = a * c - b * b;
  float opacity = head.w * settings.z;
  if (settings.y > 0.5) {
    opacity *= sqrt(before / after);  /* Mip-Splatting's 2D filter (Yu 2024) */
  }
  if (opacity < 1.0 / 255.0 || after <= 0.0) {
    return;
  }
  float half_sum = 0.5 * (a + c), half_difference = 0.5 * (a - c);
  float large = half_sum + sqrt(half_difference * half_difference + b * b);
  float small = after / large;
  vec2 axis = a >= c ? vec2(large - c, b) : vec2(b, large - a);
  axis = dot(axis, axis) > 1e-20 ? normalize(axis) : vec2(1.0, 0.0);
  float reach = sqrt(2.0 * log(255.0 * opacity));
  local = corner.xy * reach;
  vec2 pixel = middle + local.x * sqrt(large) * axis + local.y * sqrt(small) * vec2(-axis.y, axis.x);

  vec3 ray = eye.w > 0.5 ? normalize(head.xyz - eye.xyz) : eye.xyz;
  color = vec4(max(radiance(row, ray, int(settings.x)), vec3(0.0)), opacity);
  window_depth = 0.5 * depth + 0.5;
  gl_Position = vec4(2.0 * pixel / frame.xy - 1.0, 0.0, 1.0);
}
"""

_FRAGMENT = """
void main()
{
  if (frame.w > 0.5 && window_depth > texelFetch(scene_depth, ivec2(gl_FragCoord.xy), 0).r) {
    discard;
  }
  float alpha = min(color.a * exp(-0.5 * dot(local, local)), 0.999);
  if (alpha < 1.0 / 255.0) {
    discard;
  }
  result = vec4(color.rgb * alpha, alpha);
}
"""

_LAY_VERTEX = """
void main()
{
  texel = 0.5 * corner.xy + 0.5;
  gl_Position = vec4(corner.xy, 0.0, 1.0);
}
"""

_LAY_FRAGMENT = """
void main()
{
  vec4 seen = clamp(texture(picture, texel), 0.0, 1.0);
  if (srgbTarget) {
    /* Such a target encodes what is written, and Blender shows it with a power of 1/2.2. */
    seen.rgb = seen.a * pow(seen.rgb / max(seen.a, 1e-6), vec3(2.2));
  }
  result = seen;
}
"""


@cache
def splat_shader() -> gpu.types.GPUShader:
    """Draws the Gaussians of an atlas in a given order, premultiplied, into the bound target."""
    varying = gpu.types.GPUStageInterfaceInfo("orrery_splat")
    varying.smooth("VEC2", "local")
    varying.flat("VEC4", "color")
    varying.flat("FLOAT", "window_depth")
    info = gpu.types.GPUShaderCreateInfo()
    info.define("ATLAS_ROW", str(ATLAS_ROW))
    info.define("COLOR_TEXELS", str(COLOR_TEXELS))
    info.define("ORDER_ROW", str(ORDER_ROW))
    info.define("QUADS", str(QUADS))
    info.push_constant("VEC4", "pinhole")  # focal x, y, principal point x, y
    info.push_constant("VEC4", "frame")  # width, height, is perspective, has scene depth
    info.push_constant("VEC4", "depth_terms")  # projection [2][2], [2][3], [3][2], [3][3]
    info.push_constant("INT", "count")
    for slot, name in enumerate(("order", "placement", *GEOMETRY, *COLORS, "scene_depth")):
        info.sampler(slot, "FLOAT_2D", name)
    info.vertex_in(0, "VEC3", "corner")
    info.vertex_out(varying)
    info.fragment_out(0, "VEC4", "result")
    info.vertex_source(_VERTEX)
    info.fragment_source(_FRAGMENT)
    return gpu.shader.create_from_info(info)


@cache
def lay_shader() -> gpu.types.GPUShader:
    """Lays a premultiplied picture over the bound target, texel by pixel. Blender itself mixes what handlers
    draw with the scene in linear light: soft edges come out a little lighter there than in `paint`."""
    varying = gpu.types.GPUStageInterfaceInfo("orrery_lay")
    varying.smooth("VEC2", "texel")
    info = gpu.types.GPUShaderCreateInfo()
    info.push_constant("BOOL", "srgbTarget")
    info.sampler(0, "FLOAT_2D", "picture")
    info.vertex_in(0, "VEC2", "corner")
    info.vertex_out(varying)
    info.fragment_out(0, "VEC4", "result")
    info.vertex_source(_LAY_VERTEX)
    info.fragment_source(_LAY_FRAGMENT)
    return gpu.shader.create_from_info(info)


@cache
def _copy_shader() -> gpu.types.GPUShader:
    """Draws a texture, texel by pixel, some rows up."""
    info = gpu.types.GPUShaderCreateInfo()
    info.push_constant("INT", "first")
    info.sampler(0, "FLOAT_2D", "piece")
    info.vertex_in(0, "VEC2", "corner")
    info.fragment_out(0, "VEC4", "result")
    info.vertex_source("void main() { gl_Position = vec4(corner.xy, 0.0, 1.0); }")
    info.fragment_source(
        "void main() { result = texelFetch(piece, ivec2(gl_FragCoord.xy) - ivec2(0, first), 0); }"
    )
    return gpu.shader.create_from_info(info)


def copy_rows(piece: gpu.types.GPUTexture, first: int) -> None:
    """Draw `piece` into the bound target of its width, from this row on."""
    shader = _copy_shader()
    shader.bind()
    shader.uniform_int("first", (first,))
    shader.uniform_sampler("piece", piece)
    gpu.state.viewport_set(0, first, piece.width, piece.height)
    gpu.state.depth_test_set("NONE")
    gpu.state.depth_mask_set(False)
    gpu.state.blend_set("NONE")
    whole_frame().draw(shader)


@cache
def splat_quads() -> gpu.types.GPUBatch:
    """`QUADS` quads; z numbers them."""
    square = np.array([(-1, -1), (1, -1), (1, 1), (-1, -1), (1, 1), (-1, 1)], np.float32)
    corners = np.empty((QUADS, 6, 3), np.float32)
    corners[..., :2] = square
    corners[..., 2] = np.arange(QUADS)[:, None]
    return _batch(corners.reshape(-1, 3))


@cache
def whole_frame() -> gpu.types.GPUBatch:
    """One triangle pair over the whole target."""
    return _batch(np.array([(-1, -1), (1, -1), (1, 1), (-1, -1), (1, 1), (-1, 1)], np.float32))


def _batch(corners: np.ndarray) -> gpu.types.GPUBatch:
    shape = gpu.types.GPUVertFormat()
    shape.attr_add(id="corner", comp_type="F32", len=corners.shape[1], fetch_mode="FLOAT")
    buffer = gpu.types.GPUVertBuf(shape, len(corners))
    buffer.attr_fill("corner", np.ascontiguousarray(corners))
    return gpu.types.GPUBatch(type="TRIS", buf=buffer)


def forget() -> None:
    """Let go of programs and batches: their GPU context ends with the window."""
    for made in (splat_shader, lay_shader, _copy_shader, splat_quads, whole_frame):
        made.cache_clear()
