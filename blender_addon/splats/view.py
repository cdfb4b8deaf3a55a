"""How a picture is taken: the matrices of a viewport or a camera, as the drawing of Gaussians wants them."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class View:
    """One picture to draw.

    view_from_world  (4, 4) float64, OpenGL axes: +Y up, looks along -Z
    projection       (4, 4) float64, OpenGL clip space; perspective or orthographic, shifted or not
    width, height    pixels of the picture
    """

    view_from_world: np.ndarray
    projection: np.ndarray
    width: int
    height: int

    @classmethod
    def of(cls, view_from_world: object, projection: object, width: int, height: int) -> "View":
        """From anything that numpy reads as 4 x 4 matrices (mathutils.Matrix)."""
        return cls(
            np.array(view_from_world, np.float64), np.array(projection, np.float64), int(width), int(height)
        )

    @property
    def perspective(self) -> bool:
        return bool(self.projection[3, 3] == 0)

    def pinhole(self) -> tuple[float, float, float, float]:
        """Focal lengths and principal point (x, y), pixels, from the lower left corner.

        Orthographic: the focal length is pixels a metre.
        """
        p, half = self.projection, np.array([self.width, self.height]) / 2
        center = -p[:2, 2] if self.perspective else p[:2, 3]
        return (*(np.diag(p)[:2] * half), *((1 + center) * half))

    def eye(self) -> np.ndarray:
        """(4,) homogeneous, world: the centre of projection, or (w = 0) the direction of sight."""
        world_from_view = np.linalg.inv(self.view_from_world)
        if self.perspective:
            return world_from_view[:, 3]
        return np.append(-world_from_view[:3, 2], 0.0)
