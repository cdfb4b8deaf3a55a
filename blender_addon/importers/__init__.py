"""Files of a finished job -> objects in the scene, in bulk."""
