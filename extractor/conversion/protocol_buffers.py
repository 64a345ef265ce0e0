"""Messages of Protocol Buffers read without their schema: whoever reads a field knows what it is."""

from __future__ import annotations

from collections import defaultdict

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """The bytes are cut off, damaged, or not what was expected."""


def varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """The unsigned number at a place, and the place behind it.

    Raises:
        WireError: the bytes end before, or it has more than 64 bits.
    """
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise WireError("it is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise WireError("it is damaged")


class Message:
    """The fields of a message by number; what occurs twice is a list, or replaced by the last.

    Args:
        data: the message.

    Raises:
        WireError: it is cut off or damaged; so do all methods, when a field is of another kind.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self._numbers: dict[int, list[int]] = defaultdict(list)
        self._data: dict[int, list[memoryview]] = defaultdict(list)
        view = memoryview(data)
        at = 0
        while at < len(view):
            tag, at = varint(view, at)
            field, kind = tag >> 3, tag & 7
            if kind == _VARINT:
                number, at = varint(view, at)
                self._numbers[field].append(number)
                continue
            if kind == _BYTES:
                length, at = varint(view, at)
            elif kind in (_FIXED64, _FIXED32):
                length = 8 if kind == _FIXED64 else 4
            else:
                raise WireError("it is damaged")
            if at + length > len(view):
                raise WireError("it is cut off")
            self._data[field].append(view[at : at + length])
            at += length

    def number(self, field: int) -> int:
        """The last integer of a field; 0 where there is none."""
        return self._numbers[field][-1] if field in self._numbers else 0

    def numbers(self, field: int) -> list[int]:
        """Integers of a field, packed or not."""
        found = list(self._numbers.get(field, ()))
        for packed in self.all_data(field):
            at = 0
            while at < len(packed):
                number, at = varint(packed, at)
                found.append(number)
        return found

    def all_data(self, field: int) -> list[memoryview]:
        """Values of a field that is a string, bytes, a message, packed or of fixed size."""
        return self._data.get(field, [])

    def data(self, field: int) -> memoryview:
        """The last of `all_data`; empty where there is none."""
        return self._data[field][-1] if field in self._data else memoryview(b"")

    def text(self, field: int) -> str:
        """A string; empty where it is not written."""
        try:
            return bytes(self.data(field)).decode()
        except UnicodeDecodeError as error:
            raise WireError("it is damaged") from error

    def messages(self, field: int) -> list[Message]:
        """Messages of a field."""
        return [Message(data) for data in self.all_data(field)]
