"""Rules that scale a configuration of transformers: `intermediate_size = 8/3 hidden_size to 8`.

The key on the left is a ratio of another key of the same size, a whole number; `to 8` rounds it to the
nearest multiple of 8, at least 8.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from models.hf_config import Keys

_RULE = re.compile(
    r"\s*(?P<key>\w+)\s*=\s*(?P<ratio>\d+(?:\.\d+)?(?:/[1-9]\d*)?)\s+(?P<of>\w+)(?:\s+to\s+(?P<to>[1-9]\d*))?\s*"
)


@dataclass(frozen=True)
class Rule:
    """key = ratio x of, rounded to a multiple of `to` where it is not None."""

    key: str
    ratio: Fraction
    of: str
    to: int | None
    text: str

    def apply(self, keys: Keys) -> int:
        """Return the value that the other keys of a size give.

        Raises:
            ValueError: they lack the key it is a ratio of, or the result is no whole number of 1 or more.
        """
        other = keys.get(self.of)
        if not isinstance(other, int) or isinstance(other, bool):
            raise ValueError(f"model.scale: {self.text!r} needs {self.of}, a whole number: give it in model.base or model.rungs")  # fmt: skip
        value = self.ratio * other
        if self.to is not None:
            return max(self.to, int(value / self.to + Fraction(1, 2)) * self.to)
        if value.denominator > 1 or value < 1:
            raise ValueError(
                f"model.scale: {self.text!r} gives {float(value):g} at {self.of}={other}, which is no "
                f"whole number: round it ({self.text.strip()} to 8), or choose another {self.of}"
            )
        return int(value)


def parse_rule(text: str) -> Rule:
    """Read one rule.

    Raises:
        ValueError: another form.
    """
    found = _RULE.fullmatch(text)
    if found is None:
        raise ValueError(
            f"model.scale: {text!r} is not KEY = RATIO KEY, such as "
            "'intermediate_size = 8/3 hidden_size to 8' or 'num_key_value_heads = 1/2 num_attention_heads'"
        )
    number, _, below = found["ratio"].partition("/")
    ratio = Fraction(number) / int(below or 1)
    to = found["to"]
    return Rule(found["key"], ratio, found["of"], None if to is None else int(to), text.strip())


def scaled(base: Keys, rung: Keys, rules: Sequence[Rule]) -> Keys:
    """Return the keys of one size: those that all share, its own, and what the rules make of them.

    Raises:
        ValueError: a key is set twice, or as Rule.apply.
    """
    keys = {**base, **rung}
    for rule in rules:
        if rule.key in rung or sum(r.key == rule.key for r in rules) > 1:
            raise ValueError(f"{rule.key} is set twice: by model.scale ({rule.text}) and beside it")
    for rule in rules:  # in their order: a rule may build on one before it
        keys[rule.key] = rule.apply(keys)
    return keys
