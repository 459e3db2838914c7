"""From model.architecture, base, scale and rungs to a ladder of sizes; imports no transformers."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from conf.schema import ModelConf
from models.hf_config import HFConfig, Keys, plain_json
from sweep.documents import expand
from sweep.hf_counts import counted
from sweep.hf_scale import parse_rule, scaled

HF_KEYS = ("architecture", "base", "scale", "rungs")
_SHARED = ("name", "seq_len", "ladder", *HF_KEYS)
_CODE = ("auto_map", "trust_remote_code", "custom_pipelines")
# Of a config.json: what the tokenizer or model.seq_len decides, and what says nothing of the shape.
_NOT_SHAPE = {
    "vocab_size", "max_position_embeddings", "n_positions", "n_ctx", "use_cache", "pad_token_id",
    "bos_token_id", "eos_token_id", "model_type", "architectures", "transformers_version", "dtype",
    "torch_dtype", "_name_or_path", "name_or_path", "id2label", "label2id", "problem_type",
    "return_dict", "output_hidden_states", "output_attentions", "chunk_size_feed_forward",
    "is_encoder_decoder", "attn_implementation", "_attn_implementation", "pretraining_tp",
    "task_specific_params",
}  # fmt: skip


def refuse_hf_keys(model: ModelConf) -> None:
    """Refuse keys that only model.architecture reads.

    Raises:
        ValueError: one is set without it.
    """
    unread = [key for key in HF_KEYS if getattr(model, key)]
    if unread:
        raise ValueError(f"model.{unread[0]} is not read without model.architecture: leave it out")


def hf_ladder(model: ModelConf, vocab_size: int, cache: Path) -> list[HFConfig]:
    """Make the ladder of an architecture of transformers.

    Args:
        model: what was written.
        vocab_size: of the tokenizer.
        cache: folder where counts are kept.

    Raises:
        ValueError: a key that is unknown, not read, or set twice; a size that the rule or transformers
            refuses; a file that is none.
        UsageError: transformers is missing or broken.
    """
    _refuse_ours(model)
    architecture, file_keys = _read_architecture(str(model.architecture))
    sizes = _sizes(model, file_keys)
    found = counted(architecture, sizes, vocab_size, model.seq_len, cache)
    ladder = [
        HFConfig(
            architecture=architecture,
            config=plain_json(keys),
            vocab_size=vocab_size,
            seq_len=model.seq_len,
            counts=counts,
        )
        for keys, counts in zip(sizes, found, strict=True)
    ]
    ids = [cfg.size_id for cfg in ladder]
    for i, size_id in enumerate(ids):
        if size_id in ids[:i]:
            raise ValueError(f"model.rungs[{i}] repeats {size_id}")
    return ladder


def _sizes(model: ModelConf, file_keys: Keys) -> list[Keys]:
    """Return the keys of each size: of the file, of model.base, its own, and by rule."""
    rules = [parse_rule(str(text)) for text in model.scale]
    if twice := [rule.key for rule in rules if rule.key in model.base]:
        raise ValueError(f"{twice[0]} is set twice: in model.base and by model.scale")
    base = {**file_keys, **_plain("model.base", model.base)}
    if not model.rungs:
        raise ValueError(
            "model.rungs has no sizes: give each as its keys, such as "
            "{hidden_size: 64, num_hidden_layers: 2}"
        )
    sizes = []
    for i, given in enumerate(model.rungs):
        rung = _plain(f"model.rungs[{i}]", given)
        if odd := sorted(set(rung) ^ set(model.rungs[0])):
            raise ValueError(f"model.rungs[{i}]: {odd[0]} is set in some sizes and not in others")
        if twice := sorted(set(rung) & set(model.base)):
            raise ValueError(f"model.rungs[{i}]: {twice[0]} is set in model.base too")
        try:
            sizes.append(scaled(base, rung, rules))
        except ValueError as e:
            raise ValueError(f"model.rungs[{i}]: {e}") from None
    return sizes


def _refuse_ours(model: ModelConf) -> None:
    values = asdict(model)
    if values["ladder"]:
        raise ValueError("model.ladder is our GPT's: with model.architecture, give sizes in model.rungs")  # fmt: skip
    for f in fields(ModelConf):
        default = f.default if f.default is not MISSING else None
        if f.name not in _SHARED and values[f.name] != default:
            raise ValueError(
                f"model.{f.name} is our GPT's: with model.architecture={model.architecture} set the "
                "architecture's own key in model.base"
            )
    if model.seq_len < 1:
        raise ValueError(f"model.seq_len={model.seq_len} must be at least 1")


def _read_architecture(asked: str) -> tuple[str, Keys]:
    """Return the model_type, and the keys of a local config.json where one is named."""
    if "/" not in asked and not asked.endswith(".json"):
        return asked, {}
    path = expand(asked)
    path = path / "config.json" if path.is_dir() else path
    where = f"model.architecture={asked}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{where}: no such file; nothing is fetched from the hub: name a model_type such as llama, "
            "or a config.json on this machine"
        ) from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as e:
        raise ValueError(f"{where} can't be read as JSON: {e}") from None
    kind = content.get("model_type") if isinstance(content, dict) else None
    if not isinstance(kind, str):
        raise ValueError(f"{where} is no configuration of transformers: it has no model_type")
    _refuse_code(where, content)
    if content.get("quantization_config"):
        raise ValueError(f"{where} is of quantised weights, which are not trained")
    return kind, {k: v for k, v in content.items() if k not in _NOT_SHAPE | {"quantization_config"}}


def _plain(where: str, keys: Mapping[str, Any]) -> Keys:
    """Take keys that a person wrote, all plain values."""
    keys = dict(keys)
    _refuse_code(where, keys)
    bad = next((k for k in keys if not isinstance(k, str) or k.startswith("_")), None)
    if bad is not None:
        raise ValueError(f"{where}: {bad} is no key of a configuration")
    try:
        return json.loads(plain_json(keys))
    except (TypeError, ValueError):
        raise ValueError(f"{where} must hold numbers, texts, lists and maps alone") from None


def _refuse_code(where: str, keys: Mapping[str, Any]) -> None:
    code = [key for key in _CODE if keys.get(key)]
    if code:
        raise ValueError(
            f"{where} asks for code of its own ({code[0]}), which is never run: only architectures "
            "that transformers itself has"
        )
