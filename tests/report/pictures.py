"""What tests read from a chart's definition and from its picture."""

from __future__ import annotations

import struct
import zlib

from ctxsweep.report.page import Spec


def rows_of(spec: Spec, role: str) -> list[dict[str, object]]:
    return [row for row in spec["data"]["values"] if row["role"] == role]


def decode_png(data: bytes) -> tuple[int, int, set[bytes]]:
    """Width, height and the distinct colours of an 8-bit RGBA image (PNG, ISO 15948)."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    assert (depth, kind) == (8, 6)
    at, packed = 8, b""
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += length + 12
    raw = zlib.decompress(packed)
    stride = width * 4 + 1
    assert len(raw) == stride * height
    # Filtered rows are differences; that they differ is enough to tell an image from a blank.
    pixels = {raw[i : i + 4] for row in range(0, height, 8) for i in _pixels(row, stride, width)}
    return width, height, pixels


def _pixels(row: int, stride: int, width: int) -> range:
    start = row * stride + 1
    return range(start, start + width * 4, 4)


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2.2."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
