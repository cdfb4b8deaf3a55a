"""Cut-out without weights: a plain background by its colour, anything else by GrabCut (Rother 2004)."""

import cv2
import numpy as np

from backend.pipeline.stage import StageContext
from backend.pipeline.values import Picture, quantize
from backend.stages.matting.edges import clean_edges, flatten
from shared_protocol.errors import StageFailed


class GrabCutMatting:
    """The embedded engine."""

    version = "1"

    def cut(self, picture: Picture, context: StageContext) -> tuple[np.ndarray, float]:
        """Returns alpha (H, W) float32 and confidence 0..1; StageFailed when nothing stands out."""
        rgb = flatten(picture.rgba)
        scale = min(1.0, 512 / max(rgb.shape[:2]))
        small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        lab = cv2.cvtColor(small.astype(np.float32), cv2.COLOR_RGB2LAB)
        border = np.concatenate([lab[0], lab[-1], lab[:, 0], lab[:, -1]])
        centre = np.median(border, axis=0)
        spread = float(np.median(np.linalg.norm(border - centre, axis=1)))
        distance = np.linalg.norm(lab - centre, axis=2)
        if distance.max() < 4:
            raise StageFailed(
                "no object stands out from the background", "one object on a different background",
                "Give a picture with a transparent background, or another picture.",
            )  # fmt: skip
        height, width = small.shape[:2]
        seed = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
        seed[distance > max(10.0, 3 * spread)] = cv2.GC_PR_FGD
        edge = max(2, round(0.02 * max(height, width)))
        seed[:edge], seed[-edge:], seed[:, :edge], seed[:, -edge:] = (cv2.GC_BGD,) * 4
        if not (seed == cv2.GC_PR_FGD).any():
            seed[height // 4 : -height // 4, width // 4 : -width // 4] = cv2.GC_PR_FGD
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.setRNGSeed(0)
        for index in range(4):
            context.step(index, 4, "Separating object and background")
            mode = cv2.GC_INIT_WITH_MASK if index == 0 else cv2.GC_EVAL
            cv2.grabCut(quantize(small[..., ::-1]), seed, None, *models, 1, mode)
        mask = np.isin(seed, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
        soft = cv2.resize(mask, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        confidence = 0.8 if spread < 4 else 0.5
        return clean_edges(rgb, soft) * picture.rgba[..., 3], confidence
