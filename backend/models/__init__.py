"""The published networks: their modules, the names of their files' tensors, and how they sample.

torch and diffusers are imported at the top of these modules, so nothing of this package is imported at the
top of anything else: engines import it when they run.
"""
