"""Video decoder process: ``python -m lepton_tasks.serving.http.frames VIDEO --fps 1 ...``.

Videos are untrusted input, so they are decoded in a separate process: a decoder that crashes, hangs or exhausts memory
does not affect the server, and is killed when the client disconnects. Each frame is written as a line of JSON and
the bytes of a BMP file (lossless and cheap); the pipe applies backpressure.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from lepton_tasks.codecs.frames import Frame

MISSING = 3  # exit status without OpenCV
_MEMORY_BYTES = 4 << 30
_NICE = 5  # prediction requests have priority

# Formats allowed for uploads. Playlists are excluded: FFmpeg would open the files they refer to.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg,h264,hevc,gif"


def main(arguments: list[str] | None = None) -> int:
    """Write the frames of one video to standard output, then a line with ``decoded`` or ``error``."""
    parser = argparse.ArgumentParser(prog="python -m lepton_tasks.serving.http.frames", description=__doc__)
    parser.add_argument("video", help="a file, or an address that FFmpeg reads")
    parser.add_argument("--fps", type=float, required=True, help="frames per second to sample")
    parser.add_argument("--most", type=int, required=True, help="maximum number of frames")
    parser.add_argument("--pixels", type=int, required=True, help="maximum number of pixels per frame")
    parser.add_argument("--differences", action="store_true", help="return the change since the previous frame")
    parser.add_argument("--uploaded", action="store_true", help="open nothing but this file")
    options = parser.parse_args(arguments)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    os.nice(_NICE)
    if options.uploaded:
        limits = f"protocol_whitelist;file|format_whitelist;{_CONTAINERS}|threads;1"
        os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = limits
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError:
        return MISSING
    cv2.setNumThreads(1)
    from lepton_tasks.codecs.frames import frames_of

    frames = frames_of(options.video, options.fps, differences=options.differences)
    return _write(frames, options.most, options.pixels, sys.stdout.buffer)


def _write(frames: Iterator[Frame], most: int, pixels: int, out: BinaryIO) -> int:
    import cv2

    decoded = 0
    for frame in frames:
        if decoded == most:
            _write_record(out, {"decoded": decoded, "cut": True})
            return 0
        header = {"frame": frame.number, "time_s": round(frame.time_s, 6)}
        if frame.pixels is None:
            _write_record(out, {**header, "bytes": 0})
        elif frame.pixels.shape[0] * frame.pixels.shape[1] > pixels:
            height, width = frame.pixels.shape[:2]
            _write_record(out, {"error": f"a frame has {width} x {height} pixels, more than the {pixels:,} allowed."})
            return 1
        else:
            data = cv2.imencode(".bmp", frame.pixels)[1].tobytes()
            _write_record(out, {**header, "bytes": len(data)}, data)
        decoded += 1
    if not decoded:
        _write_record(out, {"error": "no frame of the video can be decoded."})
        return 1
    _write_record(out, {"decoded": decoded, "cut": False})
    return 0


def _write_record(out: BinaryIO, header: dict[str, object], data: bytes = b"") -> None:
    out.write(json.dumps(header).encode() + b"\n" + data)
    out.flush()


if __name__ == "__main__":
    sys.exit(main())
