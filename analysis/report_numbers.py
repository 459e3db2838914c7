"""Numbers as a reader needs them: units people say, no more digits than the interval supports.

Every function takes anything that a JSON file may hold and returns text; what is not a finite
number becomes an en dash, so that unknown never looks like a value.
"""

import math
from collections.abc import Callable
from typing import Any

DASH = "–"
NBSP = "\u00a0"  # a number and its interval stay on one line
_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def known(value: Any) -> float | None:
    """Return the value as a float, or None for whatever is not a finite number."""
    if isinstance(value, bool | str) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def known_pair(values: Any) -> tuple[float, float] | None:
    """Return an interval as two floats, or None where an end is not a finite number."""
    if values is None or isinstance(values, str) or not hasattr(values, "__len__"):
        return None
    if len(values) != 2:
        return None
    low, high = known(values[0]), known(values[1])
    return None if low is None or high is None else (low, high)


def significant(value: Any, digits: int = 3) -> str:
    """Plain decimal notation with so many significant digits: 0.0123, 1.65, 412."""
    x = known(value)
    if x is None:
        return DASH
    if x == 0:
        return "0"
    x = float(f"{x:.{digits - 1}e}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(x))))
    return minus(f"{x:.{decimals}f}")


def count(value: Any, digits: int = 3) -> str:
    """Parameters or tokens: 84k, 1.65M, 7.00B."""
    x = known(value)
    if x is None:
        return DASH
    if 0 < x < 1:
        return "under 1"  # of a thing that is counted
    x = float(f"{x:.{digits - 1}e}")
    for size, suffix in _SUFFIXES:
        if size <= abs(x) < 1e15:
            return significant(x / size, digits) + suffix
    return significant(x, digits) if abs(x) < 1e3 else power(x, digits)


def power(value: Any, digits: int = 2) -> str:
    """FLOPs: 2.3×10¹², 10¹²."""
    x = known(value)
    if x is None:
        return DASH
    if x == 0:
        return "0"
    mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    ten = "10" + str(int(exponent)).translate(_SUPERSCRIPT)
    return ten if mantissa == "1" else f"{minus(mantissa)}×{ten}"


def ratio(value: Any) -> str:
    """Show a factor: 10×, 2.5×, 1,900×."""
    x = known(value)
    if x is None:
        return DASH
    if x < 100:
        return f"{x:.2g}×"
    return f"{float(f'{x:.1e}'):,.0f}×" if x < 1e6 else power(x) + "×"


def decimals_for(half_width: float, fewest: int = 2, most: int = 5) -> int:
    """Decimals that show an interval's half width with one digit, two where it starts with 1."""
    if not math.isfinite(half_width) or half_width <= 0:
        return 4
    exponent = math.floor(math.log10(half_width))
    digits = -exponent + (half_width / 10**exponent < 2)
    return min(max(digits, fewest), most)


def loss(value: Any, interval: Any = None) -> str:
    """Show a loss: 1.652 ± .004 where the interval is symmetric, else 1.652 [1.64, 1.67]."""
    x, ends = known(value), known_pair(interval)
    if x is None:
        return DASH
    if ends is None:
        return f"{x:.4f}"
    low, high = ends
    decimals = decimals_for((high - low) / 2)
    below, above = round(x - low, decimals), round(high - x, decimals)
    if below == above and below > 0:
        return _plus_minus(x, below, decimals)
    return f"{x:.{decimals}f}{NBSP}[{low:.{decimals}f},{NBSP}{high:.{decimals}f}]"


def with_error(value: Any, error: Any) -> str:
    """Show a measurement and its standard error: 1.6523 ± .0021."""
    x, se = known(value), known(error)
    if x is None:
        return DASH
    if se is None or se <= 0:
        return f"{x:.4f}"
    decimals = decimals_for(se)
    return _plus_minus(x, se, decimals)


def count_with_interval(value: Any, interval: Any) -> str:
    """N or D with its interval: 84k [71k, 99k]."""
    x, ends = known(value), known_pair(interval)
    if x is None:
        return DASH
    if ends is None or ends[0] <= 0:
        return count(x, 2)
    width = ends[1] / ends[0] - 1
    digits = min(max(1 - math.floor(math.log10(max(width, 1e-9))), 2), 4)
    if width < 1e-3:  # both ends read alike
        return f"{count(x, 4)}{NBSP}±{NBSP}{percent(width / 2, signed=False)}"
    return f"{count(x, digits)}{NBSP}{interval_text(ends, lambda v: count(v, digits))}"


def interval_text(interval: Any, show: Callable[[Any], str]) -> str:
    """[low, high], or a dash."""
    ends = known_pair(interval)
    return DASH if ends is None else f"[{show(ends[0])},{NBSP}{show(ends[1])}]"


def exponent(value: Any, interval: Any = None) -> str:
    """Show an exponent with the digits its interval supports; two without one."""
    x, ends = known(value), known_pair(interval)
    if x is None:
        return DASH
    if ends is None:
        return minus(f"{x:.2f}")
    decimals = decimals_for((ends[1] - ends[0]) / 2, most=4)
    low, high = (f"{e:.{decimals}f}" for e in ends)
    return minus(f"{x:.{decimals}f}{NBSP}[{low},{NBSP}{high}]")


def percent(value: Any, *, signed: bool = True) -> str:
    """Show a share as per cent: +0.42%."""
    x = known(value)
    if x is None:
        return DASH
    x *= 100
    if 0 < abs(x) < 0.005:
        return f"under{NBSP}0.01%"
    decimals = 0 if x == 0 or abs(x) >= 20 else 1 if abs(x) >= 1 else 2
    text = f"{x:+.{decimals}f}%" if signed and x else f"{x:.{decimals}f}%"
    return minus(text)


def duration(seconds: Any) -> str:
    """42 s, 3 min 19 s, 5.2 h."""
    x = known(seconds)
    if x is None:
        return DASH
    if x < 10:
        return f"{x:.1f} s"
    if x < 99.5:
        return f"{x:.0f} s"
    if x < 5400:
        return f"{round(x) // 60} min {round(x) % 60:02d} s"
    return f"{x / 3600:.1f} h" if x < 360_000 else f"{x / 86400:.0f} days"


def minus(text: str) -> str:
    """Put a real minus sign in front of numbers."""
    return text.replace("-", "−")


def parameter(value: Any) -> str:
    """Show a law's constant: three digits, as a power of ten where it is large or tiny."""
    x = known(value)
    if x is None or x == 0 or 1e-3 <= abs(x) < 1e5:
        return significant(x)
    return power(x, 3)


def short(value: Any) -> str:
    """Show a count for an axis: 20k, 1.5M, without closing zeros."""
    text = count(value, 3)
    head, tail = (text[:-1], text[-1]) if text[-1].isalpha() else (text, "")
    return (head.rstrip("0").rstrip(".") if "." in head else head) + tail


def _plus_minus(x: float, half: float, decimals: int) -> str:
    error = f"{half:.{decimals}f}"
    error = error[1:] if error.startswith("0.") else error
    return f"{x:.{decimals}f}{NBSP}±{NBSP}{error}"
