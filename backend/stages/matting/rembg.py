"""Background removal by U2-Net-P (Qin 2020) through the rembg package, from our own weights folder."""

import importlib
import os
import threading
from types import ModuleType

import numpy as np

from backend.pipeline.stage import StageContext
from backend.pipeline.values import Picture, quantize
from backend.stages.matting.edges import clean_edges, flatten
from backend.weights.store import require

MODEL = "u2netp"
_ENVIRONMENT = threading.Lock()


def _import_rembg() -> ModuleType:
    """Import rembg without compiling what it imports but we never call.

    Its pymatting compiles two dozen Numba kernels when imported: 48 CPU seconds on a fresh machine,
    measured. Alpha edges are our own, so those kernels stay plain Python functions.
    """
    from numba import config

    before, config.DISABLE_JIT = config.DISABLE_JIT, 1
    try:
        return importlib.import_module("rembg")
    finally:
        config.DISABLE_JIT = before


class RembgMatting:
    """Real rembg, one model, never a download: the weights must be in the weights folder."""

    version = "1"

    def __init__(self) -> None:
        self._session = None

    def cut(self, picture: Picture, context: StageContext) -> tuple[np.ndarray, float]:
        """Returns alpha (H, W) float32 and a confidence from how decided the network is."""
        from PIL import Image

        context.step(0, 2, "Loading U2-Net-P")
        session = self._load()
        context.step(1, 2, "Finding the object with U2-Net-P")
        rgb = flatten(picture.rgba)
        mask = session.predict(Image.fromarray(quantize(rgb)))[0]
        soft = np.asarray(mask, dtype=np.float32) / 255
        context.check()
        decided = np.abs(2 * soft - 1)[soft > 0.05]
        confidence = float(decided.mean()) if len(decided) else 0.0
        return clean_edges(rgb, soft) * picture.rgba[..., 3], confidence

    def _load(self):
        if self._session is None:
            import onnxruntime

            rembg = _import_rembg()
            folder = require(MODEL)
            options = onnxruntime.SessionOptions()
            options.inter_op_num_threads = 1
            # rembg reads the model folder from the environment while it makes the session.
            with _ENVIRONMENT:
                before = os.environ.get("U2NET_HOME")
                os.environ["U2NET_HOME"] = str(folder)
                try:
                    self._session = rembg.new_session(MODEL, sess_opts=options)
                finally:
                    if before is None:
                        del os.environ["U2NET_HOME"]
                    else:
                        os.environ["U2NET_HOME"] = before
        return self._session
