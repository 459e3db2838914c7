"""Errors that a person can act on: the command line prints them in one line and exits with 2."""

import difflib
from collections.abc import Iterable, Sequence


class UsageError(Exception):
    """What is wrong, the key and value that are wrong, and what to type instead."""


def nearest(word: str, known: Iterable[str], n: int = 3) -> list[str]:
    """Return the known words that `word` was probably meant to be."""
    return difflib.get_close_matches(word, list(known), n=n, cutoff=0.5)


def find_one(asked: str, ids: Sequence[str]) -> str:
    """Return the one id that `asked` begins, or whose hash it begins.

    Raises:
        UsageError: none or several match.
    """
    hits = [i for i in ids if i.startswith(asked) or i.rsplit("-", 1)[-1].startswith(asked)]
    exact = [i for i in hits if i == asked]
    if len(exact or hits) == 1:
        return (exact or hits)[0]
    if hits:
        some = ", ".join(hits[:5])
        raise UsageError(f"cell={asked} names {len(hits)} cells ({some}): add characters")
    near = difflib.get_close_matches(asked, ids, n=3, cutoff=0.3) or list(ids[:3])
    raise UsageError(
        f"cell={asked} is none of the {len(ids)} planned cells; nearest: {', '.join(near)}. "
        "List them with: isoflop plan"
    )
