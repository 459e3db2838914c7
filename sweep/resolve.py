"""From what was written (AppConf) to what it means: frozen values, or one line that says what is wrong."""

from dataclasses import asdict, dataclass
from pathlib import Path

from analysis.design_prior import Prior, PriorError, load_prior
from conf.schema import AppConf, HardwareConf, RunConf
from models.config import MLP, GPTConfig, Init, Norm, Parametrisation, Positions
from models.hf_config import HFConfig
from sweep.cells_file import GridInputs, read_cells
from sweep.data import DataSettings
from sweep.data_resolve import DataHandling, resolve_data
from sweep.documents import expand
from sweep.errors import UsageError
from sweep.folder import PlannedCell, SweepFolder, sweep_folder
from sweep.grid import Grid, isoflop_grid
from sweep.grid_settings import GridSettings
from sweep.hf_ladder import HF_KEYS, hf_ladder, refuse_hf_keys
from sweep.memory import without_too_large
from sweep.predict import Rates
from sweep.probes import with_probes
from sweep.recipe import RecipeSettings
from sweep.recipe_regime import Optimizer
from sweep.settings import HardwareSettings, RunSettings


@dataclass(frozen=True)
class Resolved:
    """A composed config as domain values."""

    folder: SweepFolder
    grid: Grid
    data: DataSettings
    handling: DataHandling
    rates: Rates
    inputs: GridInputs

    @property
    def planned(self) -> list[PlannedCell]:
        """Cells and probes of the grid with their data."""
        return [PlannedCell(cell, self.data) for cell in self.grid.trained]


def resolve(app: AppConf) -> Resolved:
    """Build the grid of a config.

    Raises:
        UsageError: a value that makes no grid, naming its key.
    """
    folder = sweep_folder(app)
    data = resolve_data(app, folder.data_cache)
    try:
        inputs = GridInputs(
            _grid_settings(app),
            tuple(_ladder(app, data.tokenizer.vocab_size, folder.data_cache)),
            RecipeSettings(**asdict(app.recipe)),
            data.ref,
        )
        _refuse_muon_under_mup(inputs)
        rates = _rates(app.hardware)
        if app.grid.cells is not None:
            return Resolved(
                folder, _of_file(app, inputs), data.settings, data.handling, rates, inputs
            )
        grid = fitting_on_a_device(isoflop_grid(*inputs), app.hardware)
    except ValueError as e:
        raise UsageError(str(e)) from None
    if not grid.cells:
        told = sorted(grid.skipped, key=lambda s: "outside the window" in s.reason)
        fell = "; ".join(f"C={s.budget:g} {s.size_id}: {s.reason}" for s in told[:4])
        raise UsageError(
            f"grid={app.grid.name} has no cells. The first ones fell because: {fell}. "
            "Widen grid.window, move grid.tokens_per_param, or change grid.budgets"
        )
    if inputs.settings.probe:
        grid = with_probes(grid, inputs.settings, inputs.recipe)
    return Resolved(folder, grid, data.settings, data.handling, rates, inputs)


def fitting_on_a_device(grid: Grid, hardware: HardwareConf) -> Grid:
    """Leave out cells that no device of this hardware holds."""
    return without_too_large(grid, hardware.dtype != "float32", hardware.memory_bytes)


def _of_file(app: AppConf, inputs: GridInputs) -> Grid:
    """Cells that a file names, all of which must fit."""
    grid = read_cells(expand(app.grid.cells), inputs)
    left_out = fitting_on_a_device(grid, app.hardware).skipped
    if left_out:
        first = left_out[0]
        raise ValueError(
            f"grid.cells: C={first.budget:.3g} {first.size_id} does not fit: {first.reason}"
        )
    return grid


def hardware_settings(conf: HardwareConf) -> HardwareSettings:
    """Take what the device needs from the config.

    Raises:
        UsageError: an unknown name or a number out of range.
    """
    values = {**asdict(conf), "compile": conf.compile.lower()}  # Hydra reads true as True
    try:
        return HardwareSettings(**{k: values[k] for k in HardwareSettings.__dataclass_fields__})
    except ValueError as e:
        raise UsageError(str(e)) from None


def run_settings(conf: RunConf) -> RunSettings:
    """Take what an attempt needs from the config.

    Raises:
        UsageError: a number out of range.
    """
    values = asdict(conf)
    try:
        return RunSettings(**{k: values[k] for k in RunSettings.__dataclass_fields__})
    except ValueError as e:
        raise UsageError(str(e)) from None


_NAMED = {
    "positions": Positions,
    "norm": Norm,
    "mlp": MLP,
    "init": Init,
    "parametrisation": Parametrisation,
}


def _ladder(app: AppConf, vocab_size: int, cache: Path) -> list[GPTConfig] | list[HFConfig]:
    if app.model.architecture is not None:
        _refuse_beside_hf(app)
        return hf_ladder(app.model, vocab_size, cache)
    refuse_hf_keys(app.model)
    shared = asdict(app.model)
    sizes = shared.pop("ladder")
    for key in ("name", *HF_KEYS):
        del shared[key]
    for key, names in _NAMED.items():
        if shared[key] not in list(names):
            raise ValueError(f"model.{key}={shared[key]} is unknown; it may be {', '.join(names)}")
        shared[key] = names(shared[key])
    if not sizes:
        raise ValueError("model.ladder has no sizes")
    ladder = []
    for i, size in enumerate(sizes):
        try:
            cfg = GPTConfig(**size, **shared, vocab_size=vocab_size)
        except ValueError as e:
            raise ValueError(f"model.ladder[{i}]: {e}") from None
        if cfg in ladder:
            raise ValueError(f"model.ladder[{i}] repeats {cfg.size_id}")
        ladder.append(cfg)
    return ladder


def _refuse_muon_under_mup(inputs: GridInputs) -> None:
    """Refuse what no factor is given for: those of muP and CompleteP are of AdamW's updates."""
    kind = inputs.ladder[0].parametrisation
    if kind is not Parametrisation.STANDARD and inputs.recipe.optimizer == Optimizer.MUON:
        raise ValueError(
            f"recipe.optimizer=muon is not defined under model.parametrisation={kind}, whose factors are "
            "AdamW's: recipe.optimizer=adamw, or model.parametrisation=standard"
        )


def _refuse_beside_hf(app: AppConf) -> None:
    """Refuse what would change nothing of an architecture of transformers, or what it can't do."""
    refused = {
        "recipe.optimizer=muon": (
            app.recipe.optimizer == "muon",
            "knows the matrices of our GPT: adamw",
        ),
        "data.document_mask=true": (
            app.data.document_mask,
            "would need every layer to keep documents apart, which states of recurrences do not: false",
        ),
        f"hardware.attention={app.hardware.attention}": (
            app.hardware.attention != "auto",
            "is our GPT's: transformers chooses its own; auto",
        ),
        f"hardware.cross_entropy={app.hardware.cross_entropy}": (
            app.hardware.cross_entropy not in ("chunked", "plain"),
            "is our GPT's: the logits here are the architecture's own; plain",
        ),
        f"hardware.ranks={app.hardware.ranks}": (
            app.hardware.ranks > 1,
            "is our GPT's: one device trains a cell here; 1",
        ),
    }
    for what, (is_asked, why) in refused.items():
        if is_asked:
            raise ValueError(f"{what} with model.architecture={app.model.architecture}: it {why}")


def _grid_settings(app: AppConf) -> GridSettings:
    values = asdict(app.grid)
    for name in ("name", "cells", "noise"):
        del values[name]
    values["prior"] = _prior(app)
    return GridSettings(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _prior(app: AppConf) -> Prior:
    noise = app.grid.noise
    if noise is not None and not 0 < noise < 1:
        raise ValueError(f"grid.noise={noise:g} must lie between 0 and 1: .01 is 1% of the loss")
    try:
        return load_prior(app.grid.prior or "", noise)
    except PriorError as e:
        raise ValueError(f"grid.prior: {e}") from None


def _rates(conf: HardwareConf) -> Rates:
    values = asdict(conf)
    return Rates(**{k: values[k] for k in Rates.__dataclass_fields__})
