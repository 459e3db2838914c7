"""Seconds and bytes as a person says them."""


def duration(seconds: float) -> str:
    """Seconds for a person: '12 s', '3.4 min', '2.1 h', '4.0 days'."""
    for limit, unit, name in ((100, 1, "s"), (6000, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{0 if unit == 1 and seconds >= 10 else 1}f} {name}"
    return f"{seconds / 86_400:.1f} days"


def size_of(n_bytes: float) -> str:
    """Bytes for a person: '12 MB', '3.4 GB'."""
    for limit, unit, name in ((1e6, 1e3, "kB"), (1e9, 1e6, "MB"), (1e12, 1e9, "GB")):
        if n_bytes < limit:
            return (
                f"{n_bytes / unit:.2g} {name}"
                if n_bytes / unit < 10
                else f"{n_bytes / unit:.0f} {name}"
            )
    return f"{n_bytes / 1e12:.2g} TB"
