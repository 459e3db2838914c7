"""One attempt at one cell, as a row: the only contract between training and analysis.

The dataclass *is* the Arrow schema. Unknown is NaN (numbers) or None (text, flags), never 0 or -1.

A column that is added later has a default, and files that lack it read as if they held that default.
SCHEMA_VERSION changes when a version of this code could misread another's files; READABLE lists those
that it reads.
"""

import math
import types
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from typing import Any, get_args, get_type_hints

import pyarrow as pa

SCHEMA_VERSION = 2
READABLE = ("1", "2")  # 1 lacks columns that now have a default
NAN = math.nan

_ARROW = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}


class RecordStatus(StrEnum):
    """How an attempt ended. All but FAILED are terminal: `launch` does not train them again."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def terminal(self) -> bool:
        return self is not RecordStatus.FAILED


class Probe(StrEnum):
    """How a cell that only probes the recipe differs from the cell that it probes."""

    LR_HALF = "lr_half"
    LR_DOUBLE = "lr_double"
    BATCH_DOUBLE = "batch_double"
    SEED = "seed"


def _unit(text: str, default: Any = ...) -> Any:
    """Declare a field with its unit and meaning, which `describe()` hands to reports."""
    metadata = {"doc": text}
    return field(metadata=metadata) if default is ... else field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One attempt: what was asked, what was measured, what measured it, how it ended."""

    # which attempt
    sweep: str = _unit("name of the sweep")
    cell_id: str = _unit("readable prefix and content hash of what was asked")
    attempt: int = _unit("number of the attempt at this cell, from 0")

    # what was asked
    budget: float = _unit("C asked for, FLOPs under flop_rule")
    flop_rule: str = _unit("what C counts: palm, palm_causal, 6nd, kaplan, chinchilla")
    flops: float = _unit("C spent, FLOPs under flop_rule")
    flops_palm: float = _unit("training FLOPs, PaLM rule")
    flops_palm_causal: float = _unit("training FLOPs, PaLM rule with causal attention halved")
    flops_6nd: float = _unit("training FLOPs, 6 x N_active x D")
    flops_kaplan: float = _unit("training FLOPs, 6 x N_non_embedding x D, no resting expert")
    flops_chinchilla: float = _unit("training FLOPs, Hoffmann et al. appendix F as printed")
    size_id: str = _unit("architecture shape; cells that share it share a model size")
    architecture: str | None = _unit("model_type of transformers; none: our GPT", None)
    architecture_config: str | None = _unit("JSON: keys that its configuration was given", None)
    architecture_counts: str | None = _unit("JSON: what was counted of it, by whom", None)
    N_flops: float = _unit("parameters, C / (6 D) under flop_rule")
    N_total: int = _unit("parameters, all")
    N_non_embedding: int = _unit("parameters without embeddings and head")
    N_matmul: int = _unit("parameters that multiply: all matrices, head in, embedding out")
    N_active: int = _unit("parameters that work on one token; all where dense")
    tokens: int = _unit("D, training tokens = steps x batch_tokens")
    unique_tokens: int = _unit("distinct training tokens seen")
    epochs: float = _unit("tokens / unique_tokens")
    n_layer: int = _unit("layers")
    d_model: int = _unit("width")
    n_head: int | None = _unit("attention heads, if there is attention", None)
    head_dim: int | None = _unit("width of one head, if there is attention", None)
    vocab_size: int = _unit("tokens in the vocabulary")
    seq_len: int = _unit("tokens of context")
    positions: str | None = _unit("rotary or learned; unknown of an architecture of transformers")
    tied: bool = _unit("whether the head shares the embedding's weights")
    n_kv_head: int | None = _unit("heads of keys and values, if fewer than n_head", None)
    norm: str | None = _unit("layernorm or rmsnorm", "layernorm")
    mlp: str | None = _unit("gelu, swiglu or relu2", "gelu")
    qk_norm: bool | None = _unit("whether queries and keys are brought to unit rms", False)
    z_loss: float = _unit("weight of the mean of log(Z)^2 in training", 0.0)
    init: str | None = _unit("rule of the first weights: zero_out, fan_in or gpt2", "zero_out")
    init_scale: float = _unit("factor on the standard deviation of every draw", 1.0)
    n_expert: int | None = _unit("experts of each block, shared ones apart; none: dense", None)
    top_k: int | None = _unit("experts that a token is sent to", None)
    n_shared_expert: int | None = _unit("experts that every token passes through besides", None)
    granularity: int | None = _unit("width of the dense MLP over that of an expert", None)
    active_share: float = _unit("share of the experts that work on a token, shared ones in", 1.0)
    balance_loss: float = _unit("weight of the loss that spreads tokens over experts", NAN)
    router_z_loss: float = _unit("weight of the mean square of the router's log(Z)", NAN)
    parametrisation: str = _unit("standard, mup or completep", "standard")
    base_d_model: int | None = _unit("width at which the recipe's numbers hold, under muP", None)
    base_n_layer: int | None = _unit("layers at which they do, under CompleteP", None)
    batch_tokens: int = _unit("tokens of one optimizer step")
    batch_tokens_asked: float = _unit("tokens of a step by the rule, before whole sequences", NAN)
    steps: int = _unit("optimizer steps")
    recipe: str = _unit("rule that gave the training constants")
    recipe_outside_regime: str | None = _unit("how N, D or D/N leave the rule's regime", None)
    lr: float = _unit("peak learning rate of matrices; under muP at the base shape")
    lr_blocks: float = _unit("peak learning rate of the blocks' matrices, which muP divides", NAN)
    lr_embedding: float = _unit("peak learning rate of embeddings and norms")
    warmup_steps: int = _unit("steps of linear warm-up")
    schedule: str = _unit("shape of the learning rate after warm-up")
    decay_steps: int = _unit("steps of the final decay")
    lr_floor: float = _unit("learning rate at the end, as a share of the peak")
    beta1: float = _unit("AdamW beta1")
    beta2: float = _unit("AdamW beta2")
    eps: float = _unit("AdamW epsilon; under muP at the base shape")
    weight_decay: float = _unit("AdamW weight decay of matrices; under muP at the base shape")
    timescale: float = _unit("AdamW timescale at D/N = 20 that gave weight_decay", NAN)
    period_steps: int | None = _unit("wsd_stepped: steps after which the peak first falls", None)
    grad_clip: float = _unit("largest gradient norm")
    optimizer: str = _unit("adamw, or muon: on matrices of the blocks, adamw on the rest", "adamw")
    momentum: float = _unit("Muon's momentum", NAN)
    adjust_lr_fn: str | None = _unit("how Muon scales lr with the shape of a matrix", None)
    optimizer_flops: float = _unit("FLOPs of Muon's orthogonalisation, which C leaves out", 0.0)
    seed: int = _unit("seed of initial weights and of data order")
    probe: str | None = _unit("how a probe differs from probe_of; it enters no fit", None)
    probe_of: str | None = _unit("cell that a probe tests the recipe of", None)
    trunk: str | None = _unit("trunk that cells with the same steps before the decay share", None)
    data: str = _unit("name of the data")
    data_revision: str = _unit("revision of the data")
    tokenizer: str = _unit("name of the tokenizer")
    data_mix: str | None = _unit("share, name and revision of each source, if several", None)
    document_mask: bool | None = _unit("whether attention stays within a document", None)

    # what was measured
    val_loss: float = _unit("final loss on the whole validation set, nats per token", NAN)
    val_loss_se: float = _unit("standard error of val_loss over validation rows, nats/token", NAN)
    val_tokens: int | None = _unit("validation tokens behind val_loss", None)
    bpb: float = _unit("bits per byte of the validation text, before any mapping", NAN)
    bpb_se: float = _unit("standard error of bpb, bits per byte", NAN)
    val_sets: str | None = _unit("JSON: loss, bpb, their errors, tokens of each set by name", None)
    tasks: str | None = _unit("JSON: what isoflop evaluate found, by task/metric", None)
    task_accuracy: float = _unit("mean accuracy over the tasks of all evaluated cells", NAN)
    task_error: float = _unit("1 - task_accuracy", NAN)
    task_loss: float = _unit("mean loss over the same tasks, where each has one", NAN)
    sources: str | None = _unit("JSON: tokens, unique tokens, epochs of each source by name", None)
    train_val_gap: float = _unit("val_loss - train_loss, nats per token", NAN)
    train_loss: float = _unit("mean training loss of the last tenth of the steps, nats/token", NAN)
    eval_loss_last_k: float = _unit("mean of the last evaluations on the small set", NAN)
    tokens_per_second: float = _unit("training throughput at the median step", NAN)
    mfu: float = _unit("steady: PaLM FLOP/s over the datasheet peak", NAN)
    mfu_whole_run: float = _unit("as mfu, over the training seconds of the whole run", NAN)
    mfu_of_measured_peak: float = _unit("PaLM FLOP/s over a matmul peak measured here", NAN)
    suspect: str | None = _unit("utilisations above 1: a peak or a clock is wrong", None)
    micro_batch: int | None = _unit("sequences of one forward pass of one rank", None)
    peak_memory_bytes: float = _unit("largest memory of the process or device, bytes", NAN)
    train_seconds: float = _unit("seconds in optimizer steps, over all restarts", NAN)
    seconds: float = _unit("wall-clock seconds of the attempt, over all restarts", NAN)
    compile_seconds: float = _unit(
        "seconds of compilation, first passes included, over all restarts", NAN
    )
    energy_joules: float = _unit("energy of the boards over the attempt, if they tell", NAN)
    clock_mhz: float = _unit("SM clock of the board at the end of training, MHz", NAN)
    max_clock_mhz: float = _unit("highest SM clock of the board, MHz", NAN)
    spikes: int | None = _unit("steps whose loss jumped by over 1 nat above the running mean", None)
    diverged_step: int | None = _unit("step whose loss was no number", None)
    stopped_step: int | None = _unit("step after which launch.stop_hopeless ended it", None)
    b_noise: float = _unit("gradient noise scale of the second half of the steps, tokens", NAN)
    expert_load_max: float = _unit("most of a layer's validation tokens that one expert got", NAN)
    expert_load_entropy: float = _unit("entropy of that load over log(n_expert), mean", NAN)
    expert_dead: float = _unit("share of the experts that got no validation token", NAN)
    warmup_share: float = _unit("warm-up steps / steps", NAN)
    cooldown_done: bool | None = _unit("whether the learning rate decayed to its floor", None)

    # what measured it
    device: str | None = _unit("device type", None)
    board: str | None = _unit("name of the device", None)
    power_limit_watts: float = _unit("power limit of the board", NAN)
    peak_flops: float = _unit("datasheet peak of the board at this dtype, FLOP/s", NAN)
    peak_source: str | None = _unit("datasheet of peak_flops", None)
    measured_peak_flops: float = _unit("matmul rate measured here, FLOP/s", NAN)
    device_memory_bytes: float = _unit("memory of one device, bytes", NAN)
    n_device: int | None = _unit("devices of the attempt, one a rank", None)
    threads: int | None = _unit("CPU threads of the process", None)
    dtype: str | None = _unit("dtype of the forward pass", None)
    matmul_precision: str | None = _unit("torch's float32 matmul mode", None)
    compiled: bool | None = _unit("whether torch.compile made the step", None)
    attention: str | None = _unit("attention implementation that ran", None)
    attention_version: str | None = _unit("version of that implementation", None)
    cross_entropy: str | None = _unit("implementation of the loss that ran", None)
    deterministic: bool | None = _unit("whether a rerun here gives the same bits", None)
    flop_source: str | None = _unit("who counted the FLOPs", None)
    python_version: str | None = _unit("version of Python", None)
    torch_version: str | None = _unit("version of torch", None)
    numpy_version: str | None = _unit("version of numpy", None)
    git_sha: str | None = _unit("commit of the code", None)
    git_dirty: bool | None = _unit("whether the checkout had uncommitted changes", None)
    code_sha256: str | None = _unit("hash of the project's own source", None)
    data_sha256: str | None = _unit("hash of the tokenised data", None)
    data_commits: str | None = _unit("name@commit of each source that is of the hub", None)
    tokenizer_revision: str | None = _unit("commit of the tokenizer, if of the hub", None)
    tokenizer_sha256: str | None = _unit("hash of the tokenizer's files or table", None)
    host: str | None = _unit("host name", None)
    slurm_job_id: str | None = _unit("SLURM job", None)
    restarts: int | None = _unit("times the attempt was resumed", None)
    shared_steps: int | None = _unit("steps of the trunk that another attempt took for this", None)
    resumed_from: int | None = _unit("attempt whose checkpoint this one went on from", None)
    started_at: str | None = _unit("UTC, ISO 8601", None)
    finished_at: str | None = _unit("UTC, ISO 8601", None)

    # how it ended
    status: str = _unit("finished, diverged, stopped or failed")
    reason: str | None = _unit("why it did not finish", None)

    def __post_init__(self) -> None:
        RecordStatus(self.status)


def column_types() -> dict[str, type]:
    """Each column's Python type, with `X | None` read as X."""
    hints = get_type_hints(Record)
    return {f.name: _plain(hints[f.name]) for f in fields(Record)}


def default_of(column: str) -> Any:
    """Value of a column in files that were written before it was added.

    Raises:
        KeyError: a column without a default, which every file has.
    """
    default = Record.__dataclass_fields__[column].default
    if default is MISSING:
        raise KeyError(column)
    return default


def describe() -> dict[str, str]:
    """Each column's unit and meaning: the data dictionary of records.parquet."""
    return {f.name: f.metadata["doc"] for f in fields(Record)}


def arrow_schema() -> pa.Schema:
    """Return the Arrow schema of a record, its version in the metadata."""
    hints = get_type_hints(Record)
    columns = [
        pa.field(
            f.name,
            _ARROW[_plain(hints[f.name])],
            nullable=isinstance(hints[f.name], types.UnionType),
            metadata={"doc": f.metadata["doc"]},
        )
        for f in fields(Record)
    ]
    return pa.schema(columns, metadata={"schema_version": str(SCHEMA_VERSION)})


def _plain(hint: Any) -> type:
    return next(a for a in get_args(hint) if a is not type(None)) if get_args(hint) else hint
