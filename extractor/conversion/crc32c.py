"""CRC-32C (Castagnoli), and the masked form in which LevelDB and TensorFlow store it."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78


def _tables() -> NDArray[np.uint32]:
    """Table k holds the remainder of each byte followed by k zero bytes: uint32 [8, 256]."""
    tables = np.zeros((8, 256), np.uint32)
    for byte in range(256):
        remainder = byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (_POLYNOMIAL if remainder & 1 else 0)
        tables[0, byte] = remainder
    for k in range(1, 8):
        tables[k] = tables[k - 1] >> 8 ^ tables[0][tables[k - 1] & 255]
    return tables


_TABLES = _tables()


@numba.njit("uint32(uint8[::1], uint32[:, ::1])", cache=True, nogil=True)
def _remainder(data, tables):  # type: ignore[no-untyped-def]
    crc = np.uint32(0xFFFFFFFF)
    whole = len(data) // 8 * 8
    for i in range(0, whole, 8):
        crc ^= np.uint32(
            data[i]
            | np.uint32(data[i + 1]) << np.uint32(8)
            | np.uint32(data[i + 2]) << np.uint32(16)
            | np.uint32(data[i + 3]) << np.uint32(24)
        )
        crc = (
            tables[7, crc & 255]
            ^ tables[6, crc >> np.uint32(8) & 255]
            ^ tables[5, crc >> np.uint32(16) & 255]
            ^ tables[4, crc >> np.uint32(24)]
            ^ tables[3, data[i + 4]]
            ^ tables[2, data[i + 5]]
            ^ tables[1, data[i + 6]]
            ^ tables[0, data[i + 7]]
        )
    for i in range(whole, len(data)):
        crc = tables[0, (crc ^ data[i]) & 255] ^ crc >> np.uint32(8)
    return ~crc


def crc32c(data: bytes | memoryview) -> int:
    """CRC-32C of some bytes."""
    return int(_remainder(np.frombuffer(data, np.uint8).copy(), _TABLES))


def masked_crc32c(data: bytes | memoryview) -> int:
    """CRC-32C turned by 15 bits and shifted by a constant, so that sums of stored sums do not degenerate."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
