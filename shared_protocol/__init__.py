"""The contract between add-on, daemon and worker: messages, payloads, conventions, errors.

Runs inside Blender too: imports the standard library, numpy and msgpack only.
"""

VERSION = "0.1.0"
