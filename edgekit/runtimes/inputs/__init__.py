"""Images from files, videos, cameras, stacks and data sets, and the image rule that brings them into a network."""

import os

MOST_PIXELS = 1 << 28
"""Pixels that an image, or a frame of a video, may have: 16384 x 16384. Decoding takes 6 to 12 bytes for each."""

# OpenCV reads it when it is imported, and nothing of edgekit that decodes is imported before this package.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MOST_PIXELS))
