"""Small videos whose frames tell their number."""

import cv2
import numpy as np


def film(path, frames, fps=10, step=5):
    """Motion JPEG of 64 x 48 grey pixels: frame n is about n * step bright."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (64, 48))
    for i in range(frames):
        writer.write(np.full((48, 64, 3), step * i, np.uint8))
    writer.release()
    return path.read_bytes()


def frame_of(path, number):
    """A frame as a PNG file."""
    capture = cv2.VideoCapture(str(path))
    for _ in range(number + 1):
        pixels = capture.read()[1]
    capture.release()
    return cv2.imencode(".png", pixels)[1].tobytes()
