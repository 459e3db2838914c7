"""The model card of an exported cell, and the same facts for programs."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sweep.export_form import Compared
from sweep.law_position import Position
from sweep.trained import Finished

SCHEMA = 1
_RECIPE = ("recipe", "optimizer", "lr", "lr_embedding", "schedule", "warmup_steps", "decay_steps",
           "lr_floor", "beta1", "beta2", "eps", "weight_decay", "momentum", "adjust_lr_fn",
           "grad_clip", "batch_tokens", "steps", "z_loss", "balance_loss", "router_z_loss", "init",
           "init_scale", "seed", "recipe_outside_regime")  # fmt: skip
_DATA = ("data", "data_revision", "data_mix", "data_commits", "tokenizer", "tokenizer_revision",
         "document_mask", "unique_tokens", "epochs", "data_sha256")  # fmt: skip
_SHAPE = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "vocab_size", "seq_len",
          "positions", "norm", "mlp", "qk_norm", "tied", "n_expert", "top_k",
          "n_shared_expert", "granularity", "architecture", "architecture_config")  # fmt: skip
_MADE_BY = ("git_sha", "git_dirty", "code_sha256", "torch_version", "device", "board", "dtype",
            "finished_at")  # fmt: skip
_OF_THE_SITE = ("host", "slurm_job_id")  # nobody else's business


@dataclass(frozen=True)
class Exported:
    """What an export made.

    Attributes:
        finished: the attempt. class_name: in transformers. numbers: stored in the checkpoint.
        compared: its logits with ours. changes: of the weights since training, a sentence each.
        position: against the sweep's law. weights_sha256: of model.safetensors.
    """

    finished: Finished
    class_name: str
    numbers: int
    compared: Compared
    changes: tuple[str, ...]
    position: Position
    weights_sha256: str


def facts(made: Exported) -> str:
    """Return isoflop.json: the record, the law's prediction, and what was checked."""
    values = {
        "schema": SCHEMA,
        "cell_id": made.finished.cell.id,
        "attempt": made.finished.record["attempt"],
        "sweep": made.finished.record["sweep"],
        "architecture": made.class_name,
        "numbers": made.numbers,
        "logits": asdict(made.compared),
        "weights_sha256": made.weights_sha256,
        "law": asdict(made.position),
        "record": {k: v for k, v in made.finished.record.items() if k not in _OF_THE_SITE},
    }
    return json.dumps(_without_nan(values), indent=1) + "\n"


def card(made: Exported) -> str:
    """Return README.md: what the checkpoint is, how it was trained, and how good it is."""
    return "\n".join(_lines(made)) + "\n"


def _lines(made: Exported) -> Iterator[str]:
    record = made.finished.record
    yield "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [isoflop]\n---\n"
    yield f"# {made.finished.cell.id}\n"
    yield (
        f"One cell of the isoFLOP sweep {_plain(record['sweep'])} (attempt {record['attempt']}), "
        f"trained from scratch to measure a scaling law, as {made.class_name}. It "
        "continues text, and no more.\n"
    )
    yield _HOW_TO_LOAD
    yield "## Size, compute, loss\n"
    yield from _table(_size_rows(made))
    yield "## Against the law\n"
    yield f"{_plain(made.position.in_words)}.\n"
    for title, keys in (("Shape", _SHAPE), ("Recipe", _RECIPE), ("Data", _DATA)):
        yield f"## {title}\n"
        yield from _table([(k, _value(record[k])) for k in keys if _is_known(record[k])])
    yield "## What the export did\n"
    yield (
        f"On two rows of random tokens the logits of this checkpoint and of the trained weights, in "
        f"float32 on a CPU, differ by {made.compared.in_words}. "
        f"{made.numbers:,} numbers are stored for N_total = {record['N_total']:,} parameters.\n"
    )
    yield from (f"- {change}" for change in made.changes)
    yield "\n## What made it\n"
    yield from _table([(k, _value(record[k])) for k in _MADE_BY if _is_known(record[k])])
    yield (
        "isoflop.json holds the whole record. "
        "`isoflop import from=FOLDER` judges the checkpoint on the cell's validation set."
    )


_HOW_TO_LOAD = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
```
"""


def _size_rows(made: Exported) -> list[tuple[str, str]]:
    r = made.finished.record
    rows = [
        ("N_total", f"{r['N_total']:,} parameters"),
        ("N_non_embedding", f"{r['N_non_embedding']:,}"),
        ("N_flops = C / 6D", f"{r['N_flops']:,.0f}"),
        ("D", f"{r['tokens']:,} tokens, {r['tokens'] / r['N_total']:.3g} per parameter"),
        ("C", f"{r['flops']:.4g} FLOPs ({r['flop_rule']})"),
        (
            "validation loss",
            f"{r['val_loss']:.6f}{_error(r['val_loss_se'])} nats per token on "
            f"{r['val_tokens']:,} tokens",
        ),
    ]
    if r["N_active"] != r["N_total"]:
        rows.insert(1, ("N_active", f"{r['N_active']:,} of them work on a token"))
    if _is_known(r["bpb"]):
        rows.append(("bits per byte", f"{r['bpb']:.4f}{_error(r['bpb_se'])}"))
    return rows


def _error(se: float) -> str:
    return f" ± {se:.4f} (standard error)" if _is_known(se) else ""


def _table(rows: list[tuple[str, str]]) -> Iterator[str]:
    yield "| | |\n|---|---|"
    yield from (f"| {name} | {text} |" for name, text in rows)
    yield ""


def _value(value: Any) -> str:
    return f"{value:,}" if type(value) is int else _plain(value)


def _plain(value: object) -> str:
    """Text in one line that Markdown takes for no mark-up of a table, of HTML or of its own."""
    text = f"{value:.8g}" if isinstance(value, float) else " ".join(str(value).split())
    for mark, written in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("`", "\\`"), ("[", "\\[")):
        text = text.replace(mark, written)
    return text


def _is_known(value: Any) -> bool:
    return value is not None and value == value


def _without_nan(value: Any) -> Any:
    """Return plain values with null for what is no number, since JSON has none."""
    if isinstance(value, Mapping):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
