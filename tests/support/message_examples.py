"""One example of every message, with every field set, and its golden bytes in tests/protocol/golden_*.json.

One file a minor version. After an addition to the protocol: `python -m tests.support.message_examples` adds
the missing ones to the newest; those of older versions never change, as their bytes must stay readable.
"""

import json
from pathlib import Path

from shared_protocol import frames
from shared_protocol import messages as m

_FOLDER = Path(__file__).parents[1] / "protocol"
GOLDEN = _FOLDER / f"golden_{frames.PROTOCOL_MAJOR}_{frames.PROTOCOL_MINOR}.json"
OLDER = [_FOLDER / "golden_1_0.json"]
REQUEST = 77
BUFFER = b"raw bytes"

JOB = "0123456789abcdef0123456789abcdef"
SHA = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
FAILURE = m.Failure("stage_failed", "no object", "an object", "Use another picture.", {"stage": "matting"})
ENGINE = m.EngineState("splats", "gsplat", "on CUDA", False, False, "no CUDA device", "Use the CPU engine.")
INPUT = m.InputFile("rocket.png", SHA, 123)
RECORD = m.JobRecord(
    JOB, "running", "image_to_3d", "draft", 5, {"texture.size": 512, "splats.ssim": 0.5}, "rocket.png",
    "blender", "splats", 3, 7, 40, 250, "Fitting", ("matting", "orbit"), -1, 2, 1.5, 2.5, 3.5, 9, FAILURE, 5,
)  # fmt: skip

EXAMPLES: tuple[m.Message, ...] = (
    m.Hello("token", "blender", "0.1.0"),
    m.HelloReply("orrery", "0.1.0", "1.1", "b00t", m.Limits(), (ENGINE,), ("image_to_3d",), ("fetch",)),
    m.Ping(),
    m.Pong("b00t"),
    m.ErrorReply(FAILURE),
    m.UploadStart(SHA, 123),
    m.UploadReady(23),
    m.UploadChunk(76, 23, 4_000_000_000),
    m.UploadAck(123, True),
    m.Submit(JOB, "image_to_3d", (INPUT,), "draft", {"texture.size": 512}, 5, "rocket.png", -3),
    m.Submitted(RECORD, True, ("matting",)),
    m.GetJob(JOB),
    m.Job(RECORD),
    m.ListJobs(("queued", "running"), 10, 100),
    m.Jobs((RECORD,), 90),
    m.Cancel(JOB),
    m.CancelReply(RECORD),
    m.Move(JOB, 2),
    m.Pause(),
    m.Resume(),
    m.QueueState(True, 12),
    m.Subscribe(JOB, 4, True),
    m.Subscribed(RECORD),
    m.Event(JOB, 5, "step", "running", 12.25, "splats", 3, 7, 40, 250, "Fitting", 1.5, FAILURE),
    m.Unsubscribe(76),
    m.Unsubscribed(),
    m.GetPreview(JOB, "splats", 3),
    m.Preview(JOB, "splats", 4, "image/png"),
    m.GetLog(JOB, 100),
    m.Log(JOB, 100, 900),
    m.GetManifest(JOB, 128),
    m.Manifest(JOB, 128, 129, (m.ResultFile("orbit/000.png", 9, SHA),)),
    m.Fetch(SHA, 1024, 8_388_608, "sum64"),
    m.Chunk(1024, 4096, 123, -(2**63)),
    m.Credit(76, 2_097_152),
    m.StopFetch(76),
    m.SameHost(),
    m.NonceFile("/home/somebody/.cache/orrery/nonce-b00t"),
    m.Prove("0123"),
    m.Proved(),
    m.Locate(SHA),
    m.Located("/home/somebody/.cache/orrery/blobs/e3/e3b0", 4096),
    m.GetStatus(),
    m.Status(
        "orrery", "0.1.0", "1.1", "b00t", 4242, 60.5, 50_000_000, {"queued": 1}, {"messages": 10},
        (m.WorkerState("busy", 4243, JOB, "splats", 1, 900_000_000, "cuda:0"),), (ENGINE,),
        {"python": "3.11.9"}, (m.DeviceState("host", 16_000_000_000, 9_000_000_000),), 50_000_000_000, True,
    ),
    m.Shutdown(),
    m.ShutdownReply(),
)  # fmt: skip


def encoded(message: m.Message) -> list[bytes]:
    return frames.encode(message, REQUEST, BUFFER if message.carries_buffer else None)


def main() -> None:
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    for message in EXAMPLES:
        golden.setdefault(message.type, [frame.hex() for frame in encoded(message)])
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
