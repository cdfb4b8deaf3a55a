"""A client of the daemon with nothing but pyzmq and msgpack: python examples/client.py PICTURE OUT_FOLDER"""

import hashlib
import json
import os
import sys
import uuid
import zlib
from pathlib import Path

import msgpack
import zmq

home = Path(os.environ.get("ORRERY_STATE") or Path.home() / ".local/state/orrery")
place = json.loads((home / "connection.json").read_text())
dealer = zmq.Context().socket(zmq.DEALER)
dealer.connect(place["address"])


def send(kind, *buffer, **fields):
    request = uuid.uuid4().int >> 66
    header = msgpack.packb({"type": kind, "request": request, **fields})
    dealer.send_multipart([b"ORRY\x01\x01", header, *buffer])
    return request


def receive(request):
    """The next message that answers `request`: (its fields, its bytes)."""
    for _, header, *buffer in iter(dealer.recv_multipart, None):
        reply = msgpack.unpackb(header)
        if reply["type"] == "error":
            sys.exit("{code}: {found}. {remedy}".format(**reply["failure"]))
        if reply["request"] == request:
            return reply, *buffer


receive(send("hello", token=place["token"], client="example"))
data = Path(sys.argv[1]).read_bytes()
picture = {"name": "picture", "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
transfer = send("upload_start", sha256=picture["sha256"], size=len(data))
offset = receive(transfer)[0]["offset"]
while offset < len(data):
    piece = data[offset : offset + 2**20]
    send("upload_chunk", piece, transfer=transfer, offset=offset, crc32=zlib.crc32(piece))
    offset = receive(transfer)[0]["offset"]
job = uuid.uuid4().hex
receive(send("submit", job=job, recipe="image_to_3d", inputs=[picture], quality="draft"))
events, state = send("subscribe", job=job), "queued"
while state in ("queued", "running"):
    event = receive(events)[0]
    state = event.get("state", state)
    sys.stdout.write("{stage} {text}\n".format(**event) if event["type"] == "event" else "")
for file in receive(send("get_manifest", job=job))[0]["files"]:
    target, transfer, size = Path(sys.argv[2]) / file["name"], send("fetch", sha256=file["sha256"]), 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as output:
        while size < file["size"]:
            size += output.write(receive(transfer)[1])
            send("credit", transfer=transfer, bytes=2**20)
