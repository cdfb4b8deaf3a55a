"""OpenSplat's CPU rasteriser as an anchor of the benchmark, built from a checkout of the user's.

OpenSplat is AGPL software: none of it is here. `build` compiles its `rasterizer/gsplat-cpu/gsplat_cpu.cpp`
with a binding against the installed torch (about two minutes, once) into the cache folder.
"""

import hashlib
import importlib.util
import os
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

import numpy as np
import platformdirs
import torch
from torch.utils.cpp_extension import include_paths, library_paths

_SOURCE = Path("rasterizer", "gsplat-cpu", "gsplat_cpu.cpp")
_BINDING = """
#include <torch/extension.h>
#include "bindings.h"
using Ids = std::vector<int32_t>;
PYBIND11_MODULE(NAME, m) {
    m.def("project", &project_gaussians_forward_tensor_cpu);
    m.def("harmonics", &compute_sh_forward_tensor_cpu);
    m.def("forward", [](int w, int h, torch::Tensor xy, torch::Tensor conic, torch::Tensor color,
                        torch::Tensor opacity, torch::Tensor back, torch::Tensor cov, torch::Tensor depth) {
        auto r = rasterize_forward_tensor_cpu(w, h, xy, conic, color, opacity, back, cov, depth);
        return std::make_tuple(std::get<0>(r), std::get<1>(r), (int64_t) std::get<2>(r));
    });
    m.def("backward", [](int h, int w, torch::Tensor xy, torch::Tensor conic, torch::Tensor color,
                         torch::Tensor opacity, torch::Tensor back, torch::Tensor cov, torch::Tensor depth,
                         torch::Tensor last, int64_t ids, torch::Tensor up, torch::Tensor up_alpha) {
        return rasterize_backward_tensor_cpu(
            h, w, xy, conic, color, opacity, back, cov, depth, last, (Ids *) ids, up, up_alpha);
    });
    m.def("release", [](int64_t ids) { delete[] (Ids *) ids; });
}
"""


def build(checkout: Path) -> ModuleType:
    """Compile (or take from the cache) and import."""
    source = checkout / _SOURCE
    key = source.read_bytes() + _BINDING.encode() + torch.__version__.encode()
    name = "opensplat_" + hashlib.sha256(key).hexdigest()[:12]
    folder = Path(platformdirs.user_cache_dir("orrery")) / "benchmarks"
    library = folder / (name + sysconfig.get_config_var("EXT_SUFFIX"))
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        binding = folder / f"{name}.cpp"
        binding.write_text(_BINDING.replace("NAME", name))
        includes = [*include_paths(), sysconfig.get_path("include"), str(source.parent)]
        libraries = library_paths()
        partial = library.with_suffix(".part")
        command = [os.environ.get("CXX", "g++"), "-O3", "-std=c++20", "-fPIC", "-shared", "-fopenmp"]
        command += ["-include", "numeric", "-include", "algorithm"]
        command += [f"-I{path}" for path in includes] + [str(source), str(binding), "-o", str(partial)]
        command += [f"-L{path}" for path in libraries] + [f"-Wl,-rpath,{path}" for path in libraries]
        command += ["-ltorch", "-ltorch_cpu", "-ltorch_python", "-lc10"]
        subprocess.run(command, check=True)
        partial.replace(library)
    spec = importlib.util.spec_from_file_location(name, library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def render(
    module: ModuleType,
    tensors: list[torch.Tensor],
    world_from_camera: np.ndarray,
    intrinsics: np.ndarray,
    size: int,
) -> torch.Tensor:
    """(size, size, 3) on white, with its graph. tensors: as for `gsplat_torch.render`."""
    positions, scales, rotations, opacities, harmonics = tensors
    view = torch.tensor(np.linalg.inv(world_from_camera), dtype=torch.float32)
    fx, fy, cx, cy = (float(intrinsics[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
    far, near = 1000.0, 0.01
    projection = torch.tensor(
        [
            [2 * fx / size, 0, 2 * cx / size - 1, 0],
            [0, 2 * fy / size, 2 * cy / size - 1, 0],
            [0, 0, far / (far - near), -far * near / (far - near)],
            [0, 0, 1, 0],
        ]
    )
    xy, _, conics, covariances, depths = module.project(
        len(positions), positions, scales, 1.0, rotations, view, projection @ view,
        fx, fy, cx, cy, size, size, near,
    )  # fmt: skip
    center = torch.tensor(world_from_camera[:3, 3], dtype=torch.float32)
    directions = torch.nn.functional.normalize(positions.detach() - center, dim=1)
    degree = round(harmonics.shape[1] ** 0.5) - 1
    colors = module.harmonics(len(positions), degree, degree, directions, harmonics)
    colors = torch.clamp_min(colors + 0.5, 0)
    return _Rasterize.apply(module, size, xy, conics, colors, opacities[:, None], covariances, depths)


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(context, module, size, xy, conics, colors, opacities, covariances, depths):
        given = (xy, conics, colors, opacities, torch.ones(3), covariances, depths.contiguous())
        image, last, ids = module.forward(size, size, *given)
        context.save_for_backward(*given, last)
        context.module, context.size, context.ids = module, size, ids
        return image

    @staticmethod
    def backward(context, upstream):
        *given, last = context.saved_tensors
        size = context.size
        gradients = context.module.backward(
            size, size, *given, last, context.ids, upstream.contiguous(), torch.zeros_like(last)
        )
        context.module.release(context.ids)
        return None, None, *gradients, None, None
