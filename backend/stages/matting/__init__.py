"""Matting: the object is cut out of the picture and framed for camera 0."""
