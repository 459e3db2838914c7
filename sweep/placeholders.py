"""Templates with {names} in them, checked before they are filled in."""

import string
from collections.abc import Collection, Sequence


def names_in(key: str, template: str, known: Sequence[str]) -> frozenset[str]:
    """Return the names that a template fills in.

    Args:
        key: of the config, for messages.
        template: text with {name}; {{ and }} are braces.
        known: names that there are.

    Raises:
        ValueError: a name that there is not, or braces that do not match.
    """
    try:
        parts = [p[1:] for p in string.Formatter().parse(template) if p[1] is not None]
    except ValueError as e:
        raise ValueError(f"{key}: {e}; write {{{{ and }}}} for braces") from None
    for name, spec, conversion in parts:
        if name not in known or spec or conversion:
            raise ValueError(f"{key}: {{{_written(name, spec, conversion)}}} is unknown; "
                             f"it may be {listed(known)}")  # fmt: skip
    return frozenset(name for name, *_ in parts)


def listed(names: Collection[str]) -> str:
    """Write names as a template has them."""
    return ", ".join(f"{{{name}}}" for name in names)


def _written(name: str, spec: str | None, conversion: str | None) -> str:
    return f"{name}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}"
