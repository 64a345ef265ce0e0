"""Filter expressions built from values, so that no value is ever read as a part of the expression.

Text is quoted and escaped as both Milvus Lite and servers read it: an id with a quote, a backslash or a line
break finds the row with that id and nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import numpy as np

from connector.errors import InvalidInputError

Value = str | int | float | bool
"""What a filter can compare a field with; numpy's integers, floats and booleans as well."""

_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INT64 = 2**63
_ESCAPES: Mapping[int, str] = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"})


def equals(field: str, value: Value) -> str:
    """The field holds this value.

    Raises:
        InvalidInputError: Milvus cannot read such a field name or value.
    """
    return f"{_name(field)} == {literal(value)}"


def is_in(field: str, values: Iterable[Value]) -> str:
    """The field holds one of these values; of no values, nothing matches.

    Raises:
        InvalidInputError: Milvus cannot read such a field name or value.
    """
    values = list(values)
    # Milvus Lite finds the row of a primary key as often as the key is listed.
    listed = dict.fromkeys(literal(value) for value in values if not _is_lowest(value))
    expression = f"{_name(field)} in [{', '.join(listed)}]"
    return any_of(expression, equals(field, -_INT64)) if any(map(_is_lowest, values)) else expression


def greater(field: str, value: Value) -> str:
    """The field holds more than this value; text is compared byte by byte.

    Raises:
        InvalidInputError: Milvus cannot read such a field name or value.
    """
    return f"{_name(field)} > {literal(value)}"


def at_least(field: str, value: Value) -> str:
    """The field holds this value or more; text is compared byte by byte.

    Raises:
        InvalidInputError: Milvus cannot read such a field name or value.
    """
    return f"{_name(field)} >= {literal(value)}"


def less(field: str, value: Value) -> str:
    """The field holds less than this value; text is compared byte by byte.

    Raises:
        InvalidInputError: Milvus cannot read such a field name or value.
    """
    return f"{_name(field)} < {literal(value)}"


def all_of(*expressions: str) -> str:
    """Every one of the expressions holds; empty ones, which Milvus takes for "all rows", are left out."""
    return " and ".join(f"({expression})" for expression in expressions if expression.strip())


def any_of(*expressions: str) -> str:
    """One of the expressions holds at least; an empty one is "all rows", and so is then the whole.

    Raises:
        InvalidInputError: there is no expression.
    """
    if not expressions:
        raise InvalidInputError("any_of needs an expression: without one, it would match every row")
    if not all(expression.strip() for expression in expressions):
        return ""
    return " or ".join(f"({expression})" for expression in expressions)


def negated(expression: str) -> str:
    """The expression does not hold.

    Raises:
        InvalidInputError: the expression is empty.
    """
    if not expression.strip():
        raise InvalidInputError("an empty filter stands for all rows and has no negation: leave it out")
    return f"not ({expression})"


def literal(value: Value) -> str:
    """The value as Milvus reads it in an expression.

    Raises:
        InvalidInputError: text that is not valid Unicode, an integer beyond 64 bits, a float that is not
            finite, or a value of another type.
    """
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        if not -_INT64 <= value < _INT64:
            raise InvalidInputError(f"{value} does not fit 64 bits: Milvus has no such integer")
        # Milvus reads a sign as an operator, and the operand of this one would not fit.
        return f"({1 - _INT64} - 1)" if _is_lowest(value) else str(value)
    if isinstance(value, float | np.floating):
        if not math.isfinite(value):
            raise InvalidInputError(f"{value} cannot be compared in a filter: give a finite number")
        return repr(float(value))
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidInputError(f"{value!r} is not valid text: Milvus holds no such value") from None
        return f'"{value.translate(_ESCAPES)}"'
    raise InvalidInputError(
        f"{value!r} is a {type(value).__name__}: a filter compares text, integers, floats and booleans"
    )


def _is_lowest(value: Value) -> bool:
    return isinstance(value, int | np.integer) and value == -_INT64


def _name(field: str) -> str:
    if not _FIELD.fullmatch(field):
        raise InvalidInputError(
            f"{field!r} cannot be a field of a filter: use a name of letters, digits and underscores"
        )
    return field
