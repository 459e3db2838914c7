"""What a person may set, with its type, unit and default. Imports nothing of ours.

Structured configs stay mutable (a frozen one raises ReadonlyConfigError when YAML is composed on
it) and do not validate; the frozen values that `sweep.resolve` makes of them do.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class GridConf:
    """Which cells: budgets x sizes x seeds."""

    name: str = MISSING
    """Name of the grid; the sweep's name unless sweep= says otherwise."""
    budgets: list[float] = MISSING
    """Training compute C of each isoFLOP profile, FLOPs under flop_rule."""
    flop_rule: str = "palm"
    """What C counts: palm, palm_causal, 6nd, kaplan or chinchilla."""
    tokens_per_param: float | None = 20.0
    """D/N in the middle of each budget's window of sizes; null: N_opt of grid.prior."""
    window: float | None = 4.0
    """Sizes from middle/window to middle*window in N are in the grid; null: by grid.prior."""
    tokens_per_param_range: list[float] = field(default_factory=lambda: [1.0, 500.0])
    """Cells with D/N outside [low, high] are left out: real laws break there."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """Each cell is trained once for each seed."""
    tolerance: float = 0.01
    """Largest |C_spent / C - 1| after rounding D to whole steps."""
    probe: bool = True
    """Whether cells with other learning rates, batches and seeds test the recipe."""
    design: str = "uniform"
    """uniform: every size in the window; tapered: fewer sizes the dearer the budget."""
    taper: list[int] = field(default_factory=lambda: [15, 4])
    """tapered: sizes at the cheapest and at the dearest budget."""
    prior: str = "epoch"
    """Law that a plan predicts errors by: epoch, hoffmann, demo, or a fits.json."""
    noise: float | None = None
    """Standard deviation of one cell's log loss that a plan assumes; null: the prior's."""
    cells: str | None = None
    """A file of cells, as isoflop design writes it, in place of budgets x sizes."""
    trunks: bool = False
    """Whether the cells of a size, batch and seed branch off one trunk, whose steps are trained once."""


@dataclass
class SizeConf:
    """One size of the ladder."""

    n_layer: int = MISSING
    """Layers."""
    d_model: int = MISSING
    """Width."""
    n_head: int = MISSING
    """Attention heads; must divide d_model."""


@dataclass
class ModelConf:
    """The architecture: one ladder of sizes that share everything else."""

    name: str = MISSING
    """Name of the ladder."""
    ladder: list[SizeConf] = MISSING
    """Sizes, smallest first."""
    architecture: str | None = None
    """model_type of transformers in place of our GPT, such as llama, or a local config.json."""
    base: dict[str, Any] = field(default_factory=dict)
    """architecture: keys of its configuration that all sizes share."""
    scale: list[str] = field(default_factory=list)
    """architecture: keys by rule, such as intermediate_size = 8/3 hidden_size to 8."""
    rungs: list[dict[str, Any]] = field(default_factory=list)
    """architecture: sizes, smallest first, each as the keys that are its own."""
    seq_len: int = 128
    """Tokens of context."""
    positions: str = "rotary"
    """rotary or learned."""
    tied: bool = False
    """Whether the head shares the embedding's weights."""
    norm: str = "layernorm"
    """layernorm or rmsnorm, both with gains and without biases."""
    mlp: str = "gelu"
    """gelu, swiglu or relu2; swiglu's width is 8/3 d_model, the others' 4 d_model."""
    n_kv_head: int | None = None
    """Heads of keys and values of every size (GQA); must divide each n_head. null: n_head."""
    qk_norm: bool = False
    """Whether queries and keys are brought to unit rms, times gains, before the rotation."""
    z_loss: float = 0.0
    """Weight of the mean of log(Z)^2 in what training minimises; validation leaves it out."""
    init: str = "zero_out"
    """zero_out, fan_in or gpt2: how the weights are drawn."""
    init_scale: float = 1.0
    """Factor on the standard deviation of every draw."""
    n_expert: int | None = None
    """Experts in the place of each MLP, of which a token is sent to top_k. null: dense."""
    top_k: int | None = None
    """Experts that a token is sent to; null: 2."""
    n_shared_expert: int | None = None
    """Experts that every token passes through besides; null: none."""
    granularity: int | None = None
    """Width of the dense MLP over that of an expert; null: top_k + n_shared_expert, so that as wide an
    MLP works on a token as without experts."""
    balance_loss: float | None = None
    """Weight of the loss that spreads tokens over experts, in training alone; null: .01."""
    router_z_loss: float | None = None
    """Weight of the mean square of the router's log(Z), in training alone; null: .001."""
    parametrisation: str = "standard"
    """standard, mup or completep: how start, multipliers and steps follow the shape."""
    base_d_model: int | None = None
    """mup, completep: width at which the recipe's learning rates, decay and epsilon hold."""
    base_n_layer: int | None = None
    """completep: layers at which they do."""


@dataclass
class RecipeConf:
    """How to train: a rule for lr and batch, and constants."""

    rule: str = MISSING
    """fixed takes lr and batch_rows below; demo, porian, steplaw, deepseek and marin give them."""
    lr: float | None = None
    """fixed: peak learning rate of matrices."""
    lr_embedding: float | None = None
    """fixed: peak learning rate of embeddings and norms; lr where null."""
    batch_rows: int | None = None
    """fixed: sequences of one optimizer step."""
    schedule: str = "wsd"
    """wsd (constant, then 1 - sqrt), wsd_linear, wsd_stepped (a peak that falls by 1/sqrt(2) at each
    doubling of D/N above 20), cosine, linear or constant; after a warm-up."""
    warmup_share: float | None = None
    """Share of the steps that warm up, at most .1; null: the rule's, else .05."""
    decay_share: float | None = None
    """wsd, wsd_linear, wsd_stepped: share of the steps that decay; null: .2."""
    lr_floor: float | None = None
    """Learning rate at the end, as a share of the peak; null: the rule's, else 0."""
    beta1: float = 0.9
    """AdamW beta1."""
    beta2: float | None = None
    """AdamW beta2; null: the rule's, else .95."""
    eps: float | None = None
    """AdamW epsilon; null: the rule's, else 1e-8."""
    weight_decay: float | None = None
    """AdamW weight decay of matrices; embeddings and norms have none. null: by timescale, else .1."""
    timescale: float | None = None
    """Weight decay by rule: batch / (lr x decay x D) of a cell at D/N = 20, falling as (D/N)^-.527."""
    grad_clip: float = 1.0
    """Largest gradient norm."""
    optimizer: str = "adamw"
    """adamw, or muon: torch's Muon on the matrices of the blocks, AdamW on embeddings, head and norms."""
    momentum: float | None = None
    """Muon's momentum; null: .95."""
    adjust_lr_fn: str | None = None
    """How Muon scales lr with a matrix: match_rms_adamw (null), for which AdamW's lr serves, or original."""


@dataclass
class SourceConf:
    """One source of a mixture; path or dataset."""

    name: str = MISSING
    """Name in the results."""
    weight: float = 1.0
    """Share of training tokens, beside the other sources' weights."""
    path: str | None = None
    """File or folder: parquet, JSON lines, or text files."""
    dataset: str | None = None
    """Dataset of the hub."""
    subset: str | None = None
    """Subset (configuration) of the dataset."""
    split: str | None = None
    """Split of the dataset, such as train."""
    validation_split: str | None = None
    """Split of the dataset to validate on; null: text is held out of split."""
    text_column: str = "text"
    """Column with the text."""
    revision: str = "main"
    """Commit, branch or tag of the dataset; of files, a word of yours."""


@dataclass
class EvalConf:
    """An extra set to judge each cell on; path or dataset."""

    name: str = MISSING
    """Name in the results: loss_<name>."""
    path: str | None = None
    """File or folder: parquet, JSON lines, or text files."""
    dataset: str | None = None
    """Dataset of the hub."""
    subset: str | None = None
    """Subset (configuration) of the dataset."""
    split: str | None = None
    """Split of the dataset, such as test."""
    text_column: str = "text"
    """Column with the text."""
    revision: str = "main"
    """Commit, branch or tag of the dataset; of files, a word of yours."""


@dataclass
class DataConf:
    """What to train on."""

    name: str = MISSING
    """Name in the records and the cell id."""
    source: str = MISSING
    """english (the embedded corpus), text_folder (a folder of text files) or hf (anything)."""
    revision: str = "1"
    """Revision in the records and the cell id: change it when the data changes."""
    tokenizer: str = "bytes256"
    """bytes256, bytes128; hf: also a tokenizer of transformers, by folder or hub name."""
    tokenizer_revision: str | None = None
    """hf: commit, branch or tag of a tokenizer of the hub."""
    document_mask: bool = False
    """Whether attention stays within a document, in training and in validation."""
    path: str | None = None
    """text_folder: the folder; hf: a file or folder of parquet, JSON lines or text."""
    dataset: str | None = None
    """hf: dataset of the hub; data.revision is its commit, branch or tag."""
    subset: str | None = None
    """hf: subset (configuration) of the dataset."""
    split: str | None = None
    """hf: split of the dataset, such as train."""
    validation_split: str | None = None
    """hf: split of the dataset to validate on; null: text is held out of split."""
    text_column: str = "text"
    """hf: column with the text."""
    sources: list[SourceConf] = field(default_factory=list)
    """hf: several sources, mixed by weight, in place of the one above."""
    validation_share: float = 0.06
    """Share of the text held out for validation."""
    val_tokens: int = 262_144
    """Tokens of the full validation at the end of a run, at least 262,144 where the text allows."""
    eval_tokens: int = 8_192
    """Tokens of the small validation along the way."""
    max_epochs: float = 1.0
    """A plan whose largest D needs more passes over the text is refused."""
    cache: str | None = None
    """Folder of each node's own disk to which shards are copied once; null: read where they are."""
    workers: int | None = None
    """hf, eval: processes that tokenise; null: one a core."""


@dataclass
class ClusterConf:
    """Where cells are trained."""

    name: str = MISSING
    """Name of the preset."""
    kind: str = "local"
    """local (worker processes on this machine) or slurm (job arrays)."""
    workers: int | None = None
    """local: cells trained at once; null: one a GPU, else one a core."""
    partition: str | None = None
    """slurm: partition; null: the site's default."""
    account: str | None = None
    """slurm: account to charge."""
    qos: str | None = None
    """slurm: quality of service."""
    nodes: int = 1
    """slurm: nodes of one cell; hardware.ranks are shared out evenly among them."""
    gpus: int | None = None
    """slurm: GPUs of each node of a cell; null: one a rank where hardware.device is a GPU."""
    gpu_type: str | None = None
    """slurm: type of GPU, as the site names it in gres."""
    cpus: int | None = None
    """slurm: CPU cores of each rank; null: hardware.threads."""
    memory_gb: float | None = None
    """slurm: memory of each node of a cell, GB; null: predicted."""
    max_hours: float = 24.0
    """slurm: longest time limit; a longer cell queues itself again at the limit and goes on."""
    margin: float = 2.0
    """slurm: time limit / predicted time; 1.5 at least once cells were measured."""
    pack: int | None = None
    """slurm: cells that one job trains at once, from a queue of an hour or so; null: a job a cell."""
    parallelism: int | None = None
    """slurm: tasks of one array that run at once; null: no limit."""
    max_requeues: int = 20
    """slurm: how often a job may queue itself again, at a time limit or when it is preempted."""
    signal_seconds: int = 120
    """slurm: how long before the time limit a job is told to save."""
    constraint: str | None = None
    """slurm: features that nodes must have."""
    exclude: str | None = None
    """slurm: nodes that are not used; those of GPUs that failed twice are added."""
    comment: str | None = None
    """slurm: comment of the jobs."""
    mail_user: str | None = None
    """slurm: whom to mail."""
    mail_type: str | None = None
    """slurm: when, such as END,FAIL."""
    setup: list[str] = field(default_factory=list)
    """slurm: shell lines before a job's command, such as module load cuda."""
    python: str | None = None
    """slurm: Python of the jobs; null: the one of this command, or python3 in a container."""
    container: str | None = None
    """slurm: image to run in."""
    container_runtime: str = "apptainer"
    """slurm: apptainer or pyxis."""
    container_mounts: list[str] = field(default_factory=list)
    """slurm: folders the container sees beside root, each as /path or /path:/inside."""
    additional: dict[str, Any] = field(default_factory=dict)
    """slurm: any other option of sbatch, as in cluster.additional.reservation=mine."""


@dataclass
class LaunchConf:
    """How a launch goes."""

    dry_run: bool = False
    """Print what would be done, with sbatch files; write and submit nothing."""
    only: str | None = None
    """failed: only cells that were tried and did not finish; stopped: only those that were ended
    as hopeless, which go on from there."""
    max_gpu_hours: float | None = None
    """Refuse a launch that is predicted to take more hours of GPUs (or ranks, without GPUs)."""
    canary: bool = True
    """slurm: a short job first, that checks what the cells need; they start when it ends well."""
    finish: bool | None = None
    """Collect, fit and report at the end; null: on slurm."""
    notify: str | None = None
    """Shell command at the end; {sweep} {state} {finished} {planned} {folder} are filled in."""
    code: str | None = None
    """frozen or new: which code trains the rest of a sweep that other code began."""
    retries: int = 2
    """How often a failure that may pass (device, network, files) is tried again at once."""
    stop_hopeless: bool = False
    """End a cell whose curve says that it will end above what a law predicts, or has diverged."""
    fits: str | None = None
    """stop_hopeless: fits.json whose law predicts; null: the sweep's own."""


@dataclass
class HardwareConf:
    """What a cell is trained on, and what the plan assumes of it."""

    name: str = MISSING
    """Name of the preset."""
    device: str = "auto"
    """auto (cuda where there is one), cpu or cuda."""
    dtype: str = "float32"
    """Of the forward pass: float32 or bfloat16; weights and loss are float32 always."""
    attention: str = "auto"
    """auto, or one of cpu_flash, sdpa_flash, sdpa_cudnn, sdpa_efficient, sdpa_fa3, sdpa_fa4, fa2,
    fa3, fa4 and reference."""
    cross_entropy: str = "chunked"
    """chunked (never all logits at once), plain, or liger (its Triton kernel, on a GPU)."""
    threads: int = 1
    """CPU threads of a process."""
    ranks: int = 1
    """Processes that train one cell together, one device each; the batch is split among them."""
    micro_rows: int | None = None
    """Sequences of one forward pass of one rank; null: as many as fit in memory."""
    compile: str = "auto"
    """torch.compile: auto (on a GPU), true or false."""
    matmul_precision: str = "auto"
    """Torch's mode for float32 matmuls: auto (high on a GPU, highest on a CPU), highest, high, medium."""
    deterministic: bool = False
    """GPU: only algorithms that give the same bits again, which are slower. A CPU has no others."""
    memory_bytes: float | None = None
    """Memory of one device, bytes: cells whose replica does not fit are left out. null: unknown."""
    devices: int = 1
    """Cells that the plan assumes are trained at once."""
    flops_per_second: float = MISSING
    """Rate the plan assumes of one device, FLOP/s of model FLOPs."""
    token_seconds: float = 0.0
    """Seconds a token costs beside its FLOPs, as the plan assumes."""
    step_seconds: float = 0.0
    """Seconds a step costs whatever its size, as the plan assumes."""
    price: float | None = None
    """Price of an hour of one device, in your money; null: no money is spoken of."""


@dataclass
class FitConf:
    """How to fit; the first name of each list is the default."""

    law: str = "chinchilla"
    """Parametric law of approach 3."""
    estimator: str = "t4"
    """t4, huber, ls or l1."""
    delta: float = 1e-3
    """huber: threshold on log-loss residuals."""
    resample: str = "size"
    """Bootstrap by model size, or by rows."""
    draws: int = 4000
    """Bootstrap draws of the headline law."""
    level: float = 0.9
    """Level of every interval."""
    N: str = "flops"
    """Own sweeps: which N enters the laws: flops, total, non_embedding, matmul or active."""
    loss: str | None = None
    """Own sweeps: fit the loss on this set, of eval= or of data.sources; null: on all sources."""
    fix: dict[str, float] = field(default_factory=dict)
    """Constants that are not fitted, e.g. fit.fix.E=1.69."""
    targets: list[float] | None = None
    """Budgets to forecast; null: 10x the top budget."""
    where: str | None = None
    """points: keep the rows for which this pandas query holds."""
    by: str | None = None
    """points: one fit for each value of this column."""
    loss_unit: str = "nats"
    """nats, bits or bpb: a label."""


@dataclass
class ReportConf:
    """How the report looks."""

    title: str | None = None
    """Heading; null: the sweep's name."""
    price: float | None = None
    """Dollars for an hour of one device; null: no money is shown."""


@dataclass
class PlanConf:
    """How the plan is printed."""

    format: str = "table"
    """table or json."""
    bounds: bool = False
    """Print what bounds each size on A100, H100 and B200 instead of the cells."""


@dataclass
class StatusConf:
    """How the status is printed."""

    watch: bool = False
    """Print it again every ten seconds, until nothing moves."""
    fits: str | None = None
    """fits.json whose law predicts how running cells will end; null: the sweep's own."""


@dataclass
class ForecastConf:
    """What is forecast, and how it is printed."""

    targets: list[float] | None = None
    """Budgets, FLOPs; null: those that the fit has."""
    at: list[Any] = field(default_factory=list)
    """Runs whose loss is forecast, each [N, D]: parameters and tokens."""
    format: str = "text"
    """text or json."""


@dataclass
class RunConf:
    """How one attempt goes."""

    steps: int | None = None
    """Measure speed and memory over this many steps; writes no record."""
    evaluations: int = 12
    """Evaluations on the small validation set along the way."""
    checkpoint_seconds: float = 20.0
    """Seconds between checkpoints."""
    checkpoint_steps: int | None = None
    """Most steps between checkpoints, beside the seconds; null: by the seconds alone."""
    keep_checkpoints: str = "last"
    """What stays of a recorded attempt: none, last (its end) or all (one an evaluation)."""
    lease_seconds: float = 30.0
    """A process that is silent for so long is taken for dead: another goes on with its attempt."""
    trackers: list[str] = field(default_factory=list)
    """Also show curves in tensorboard, wandb or trackio; our own files stay the truth."""
    tracker_project: str | None = None
    """wandb, trackio: project of the runs; null: isoflop."""


@dataclass
class EvaluateConf:
    """How trained cells are evaluated."""

    command: str | None = None
    """Program and words that evaluate the model in {checkpoint} and leave JSON in {out}; {tasks} and
    {cell} are filled in too. No shell reads it."""
    tasks: list[str] = field(default_factory=list)
    """What {tasks} stands for, joined by commas."""


@dataclass
class BudgetConf:
    """Planning arithmetic, with no sweep: one question at a time, and what it takes."""

    ask: str = "train"
    """train, optimal, inference, overtrain, serve, data, energy, budgets, models, laws or hardware."""
    format: str = "text"
    """text or json."""
    law: str | None = None
    """epoch, minimum, hoffmann, hoffmann_unrounded, muennighoff or kaplan; null: epoch, or fits=."""
    N: float | None = None
    """Parameters."""
    D: float | None = None
    """Training tokens."""
    C: float | None = None
    """Training compute, FLOPs, C = 6ND."""
    gpu_hours: float | None = None
    """optimal: what is to be spent, in hours of one GPU."""
    money: float | None = None
    """optimal: what is to be spent, in the unit of price, dollars."""
    tokens_per_param: float | None = None
    """optimal: D/N to keep, in place of the law's."""
    budgets: list[float] | None = None
    """budgets: training compute of each row, FLOPs."""
    hardware: str | None = None
    """A board by its short name; list them with budget.ask=hardware."""
    peak: float | None = None
    """Peak of a board that is not listed, FLOP/s, dense, in place of hardware."""
    gpus: int | None = None
    """Devices that work at once."""
    mfu: float | None = None
    """Model FLOPs utilisation, assumed, in (0, 1]."""
    records: str | None = None
    """A records.parquet whose median mfu is taken, in place of mfu."""
    price: float | None = None
    """Dollars for a GPU-hour; null: no money is shown."""
    loss: float | None = None
    """inference, overtrain: the loss to reach, nats per token, in place of N and D."""
    serve_tokens: float | None = None
    """Tokens served over the model's life, read and written."""
    queries: float | None = None
    """Queries served over the model's life, in place of serve_tokens."""
    tokens_per_query: float | None = None
    """Tokens of a query, read and written."""
    serve_hardware: str | None = None
    """Board that serves; null: the one that trains."""
    serve_peak: float | None = None
    """Peak of the board that serves, FLOP/s, in place of serve_hardware."""
    serve_mfu: float | None = None
    """Model FLOPs utilisation of serving, assumed, in (0, 1]."""
    serve_price: float | None = None
    """Dollars for a GPU-hour of serving."""
    sizes: list[float] | None = None
    """overtrain: sizes to train longer, parameters; null: .9 to .2 of the reference."""
    dtype: str = "bfloat16"
    """serve: of weights and cache: float32, bfloat16, float16, float8, int8 or int4."""
    memory: float | None = None
    """serve: memory of one device, bytes; null: the board's."""
    bandwidth: float | None = None
    """serve: memory bandwidth of one device, bytes/s; null: the board's."""
    context: int | None = None
    """serve: tokens of each sequence in the cache."""
    batch: int = 1
    """serve: sequences that are decoded at once."""
    n_layer: int | None = None
    """serve: layers, for the cache."""
    n_kv_head: int | None = None
    """serve: heads of keys and values, for the cache."""
    head_dim: int | None = None
    """serve: width of a head, for the cache."""
    unique_tokens: float | None = None
    """data: distinct tokens that there are."""
    R_D: float | None = None
    """data: constant R* of repeated data; null: 14 and 200, the ends of what the runs allow."""
    watts: float | None = None
    """energy: power of one device, watts; null: the datasheet's limit."""
    pue: float = 1.0
    """energy: energy of the data centre over that of the devices."""
    carbon: float | None = None
    """energy: emissions, kg CO2-equivalent per kWh; null: none are shown."""


@dataclass
class DesignConf:
    """Which cells to run next."""

    target: float | None = None
    """Compute at which the optimum is wanted, FLOPs; null: 10x the top budget. plan: too."""
    quantity: str = "both"
    """What is to be known there: N_opt, loss or both."""
    flops: float | None = None
    """What the next cells and their probes may cost, FLOPs; of each round with design.until."""
    device_hours: float | None = None
    """The same as predicted hours of one device (GPU-hours); this or design.flops."""
    until: str | None = None
    """Plan rounds until an interval is reached, e.g. N_opt@1e15<=10%."""
    budgets: list[float] | None = None
    """Budgets of candidate cells, FLOPs; null: the sweep's own, and on at its own steps."""
    fits: str | None = None
    """fits.json to design from; null: the sweep's own."""


@dataclass
class ExportConf:
    """How a trained cell is exported."""

    dry_run: bool = False
    """Say what would be written; write nothing."""


@dataclass
class AppConf:
    """Everything, as one config."""

    root: str = "outputs"
    """Folder of all sweeps; on a cluster, a shared filesystem."""
    sweep: str | None = None
    """Name of the sweep's folder in root; null: the grid's name."""
    cell: str | None = None
    """run, logs, cancel, evaluate, export, import: a cell's id, or a beginning or hash that names one
    cell."""
    record: str | None = None
    """run: a records.parquet to rebuild the cell from."""
    points: str | None = None
    """fit, report, forecast: a table of anybody's runs (CSV, parquet, JSON lines)."""
    curves: str | None = None
    """fit: a table of training curves."""
    out: str | None = None
    """fit, report, forecast: folder to write to, with points= or fits=; export: a new folder."""
    from_: str | None = None
    """import, typed from=: folder of a checkpoint of transformers."""
    fits: list[str] = field(default_factory=list)
    """report: several fits.json, or folders that hold one, side by side: fits=[A,B]; budget: a fits.json
    whose law is taken; forecast: one that is asked, or two compared."""
    preregister: str | None = None
    """forecast: registry that predictions are added to; with score=, the one that is scored."""
    score: str | None = None
    """forecast: what came: a records.parquet, a sweep's folder, or a table of runs."""
    columns: dict[str, Any] = field(default_factory=dict)
    """points: names of the table's columns, e.g. columns.N=params."""
    grid: GridConf = field(default_factory=GridConf)
    model: ModelConf = field(default_factory=ModelConf)
    recipe: RecipeConf = field(default_factory=RecipeConf)
    data: DataConf = field(default_factory=DataConf)
    eval: list[EvalConf] = field(default_factory=list)
    """Extra sets to judge each cell on at its end; evaluate: sets to judge trained cells on."""
    cluster: ClusterConf = field(default_factory=ClusterConf)
    hardware: HardwareConf = field(default_factory=HardwareConf)
    fit: FitConf = field(default_factory=FitConf)
    report: ReportConf = field(default_factory=ReportConf)
    plan: PlanConf = field(default_factory=PlanConf)
    launch: LaunchConf = field(default_factory=LaunchConf)
    status: StatusConf = field(default_factory=StatusConf)
    forecast: ForecastConf = field(default_factory=ForecastConf)
    run: RunConf = field(default_factory=RunConf)
    evaluate: EvaluateConf = field(default_factory=EvaluateConf)
    budget: BudgetConf = field(default_factory=BudgetConf)
    design: DesignConf = field(default_factory=DesignConf)
    export: ExportConf = field(default_factory=ExportConf)
