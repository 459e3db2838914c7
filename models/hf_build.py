"""From keys to a configuration and a network of transformers; never code or weights of the hub."""

import dataclasses
import difflib
import inspect
import os
import re
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # one line for a person is ours to say

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from models.hf_config import Keys

OURS = {
    "vocab_size": "the tokenizer's (data.tokenizer)",
    "max_position_embeddings": "model.seq_len",
    "use_cache": "of no use in training",
    "pad_token_id": "of no use in training: rows are full",
    "bos_token_id": "of no use in training",
    "eos_token_id": "of no use in training",
}
_ROPE = {"rope_theta", "rope_scaling", "partial_rotary_factor"}  # taken into rope_parameters
_DROPS = re.compile(r"dropout|_?pdrop|drop_rate|jitter")


def make_config(architecture: str, keys: Keys, vocab_size: int, seq_len: int) -> PreTrainedConfig:
    """Make the configuration of one size.

    Args:
        architecture: a model_type that transformers has a causal language model of.
        keys: of its configuration, by any name that the class knows.
        vocab_size: tokens in the vocabulary.
        seq_len: tokens of context.

    Raises:
        ValueError: an unknown architecture or key (names the nearest), a key that is ours to set, a
            value that the class refuses, or one that would make training random.
    """
    if architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        near = _nearest(architecture, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        raise ValueError(
            f"model.architecture={architecture} is no causal language model of transformers"
            f"{_hint(near)}; a local file is named with its .json"
        )
    kind = CONFIG_MAPPING[architecture]
    given = {kind.attribute_map.get(key, key): value for key, value in keys.items()}
    if len(given) < len(keys):
        raise ValueError(f"two of the keys {', '.join(keys)} are names of the same one")
    ours = {kind.attribute_map.get(key, key): why for key, why in OURS.items()}
    known = known_keys(kind)
    for key in given:
        if key in ours:
            raise ValueError(f"{key} is {ours[key]}: leave it out of model.base and model.rungs")
        if key not in known:
            near = _nearest(key, {*known, *kind.attribute_map} - {*ours, *OURS})
            raise ValueError(f"{key} is no key of {architecture}{_hint(near)}")
    own = {"vocab_size": vocab_size, "max_position_embeddings": seq_len, "use_cache": False}
    own |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    own = {kind.attribute_map.get(key, key): value for key, value in own.items()}
    config = _make(kind, {**given, **{k: v for k, v in own.items() if k in known}})
    _refuse_randomness(config)
    return config


def known_keys(kind: type[PreTrainedConfig]) -> set[str]:
    """Keys that a class of configurations reads; transformers itself takes any word in silence.

    Its fields but for those that every class has, and what its code takes from the words that are no
    fields, such as full_attention_interval.
    """
    generic = {f.name for f in dataclasses.fields(PreTrainedConfig)}
    keys = {f.name for f in dataclasses.fields(kind)} | set(inspect.signature(kind).parameters)
    keys = {key for key in keys - generic if not key.startswith("_")} - {"kwargs", "args", "self"}
    for cls in kind.__mro__[: kind.__mro__.index(PreTrainedConfig)]:
        taken = r"""kwargs\.(?:pop|get|setdefault)\(\s*["'](\w+)["']"""
        keys |= set(re.findall(taken, inspect.getsource(cls)))
    return keys | (_ROPE if "rope_parameters" in keys else set())


def build(config: PreTrainedConfig, seed: int | None = None, **how: Any) -> nn.Module:
    """Build the network in float32, drawn by transformers' own rule for the architecture.

    The generator of the process stays as it is: what is drawn depends on `seed` alone.

    Raises:
        ValueError: the shape does not go together; says what transformers said.
    """
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        try:
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32, **how)
        except Exception as e:
            raise ValueError(f"{config.model_type} can't be built: {first_line(e)}") from None


def first_line(error: BaseException) -> str:
    """Say what an error said, in one line."""
    said = " ".join(str(error).split())
    cause = said.rpartition("Error: ")[2]  # of a validation, what was found wrong
    if cause != said or (isinstance(error, ValueError) and said):
        return cause[:300]
    return f"{type(error).__name__}: {said}"[:300]


def _make(kind: type[PreTrainedConfig], keys: Keys) -> PreTrainedConfig:
    try:
        return kind(**keys)
    except Exception as e:  # a type of its own for each kind of mistake
        raise ValueError(f"{kind.model_type} refuses its keys: {first_line(e)}") from None


def _refuse_randomness(config: PreTrainedConfig) -> None:
    """Refuse dropout: a law wants the loss of the whole network, a resumed run the same bits."""
    random = {
        name: value
        for name, value in vars(config).items()
        if _DROPS.search(name) and isinstance(value, int | float) and value > 0
    }
    if random:
        zeros = ", ".join(f"{name}: 0" for name in random)
        raise ValueError(f"cells train without dropout: set model.base={{{zeros}}}")


def _nearest(word: str, known: Any) -> list[str]:
    return difflib.get_close_matches(word, sorted(known), n=3, cutoff=0.5)


def _hint(near: list[str]) -> str:
    return f"; nearest: {', '.join(near)}" if near else ""
