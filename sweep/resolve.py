"""From what was written (AppConf) to what it means: frozen values, or one line that says what is wrong."""

from dataclasses import asdict, dataclass

from conf.schema import AppConf, HardwareConf, RunConf
from models.config import GPTConfig, Positions
from sweep.data import DataSettings
from sweep.documents import expand
from sweep.errors import UsageError
from sweep.folder import PlannedCell, SweepFolder
from sweep.grid import DataRef, Grid, GridSettings, isoflop_grid
from sweep.predict import Rates
from sweep.probes import with_probes
from sweep.recipe import RecipeSettings
from sweep.settings import HardwareSettings, RunSettings
from sweep.tokens import VOCABULARY


@dataclass(frozen=True)
class Resolved:
    """A composed config as domain values."""

    folder: SweepFolder
    grid: Grid
    data: DataSettings
    rates: Rates

    @property
    def planned(self) -> list[PlannedCell]:
        """Cells and probes of the grid with their data."""
        return [PlannedCell(cell, self.data) for cell in self.grid.trained]


def resolve(app: AppConf) -> Resolved:
    """Build the grid of a config.

    Raises:
        UsageError: a value that makes no grid, naming its key.
    """
    try:
        data = _data(app)
        recipe = RecipeSettings(**asdict(app.recipe))
        settings = _grid_settings(app)
        grid = isoflop_grid(settings, _ladder(app), recipe, _data_ref(app))
        rates = _rates(app.hardware)
    except ValueError as e:
        raise UsageError(str(e)) from None
    if not grid.cells:
        fell = "; ".join(f"C={s.budget:g} {s.size_id}: {s.reason}" for s in grid.skipped[:4])
        raise UsageError(
            f"grid={app.grid.name} has no cells. The first ones fell because: {fell}. "
            "Widen grid.window, move grid.tokens_per_param, or change grid.budgets"
        )
    if settings.probe:
        grid = with_probes(grid, settings, recipe)
    return Resolved(folder=sweep_folder(app), grid=grid, data=data, rates=rates)


def sweep_folder(app: AppConf) -> SweepFolder:
    """Folder that sweep= names, or the grid's."""
    root = expand(app.root)
    return SweepFolder(root, app.sweep if app.sweep is not None else app.grid.name)


def hardware_settings(conf: HardwareConf) -> HardwareSettings:
    """Take what the device needs from the config.

    Raises:
        UsageError: an unknown name or a number out of range.
    """
    values = asdict(conf)
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


def _ladder(app: AppConf) -> list[GPTConfig]:
    if app.model.positions not in list(Positions):
        raise ValueError(
            f"model.positions={app.model.positions} is unknown; it may be {', '.join(Positions)}"
        )
    if not app.model.ladder:
        raise ValueError("model.ladder has no sizes")
    ladder = []
    for i, size in enumerate(app.model.ladder):
        try:
            cfg = GPTConfig(
                **asdict(size),
                vocab_size=VOCABULARY[app.data.tokenizer],
                seq_len=app.model.seq_len,
                positions=Positions(app.model.positions),
                tied=app.model.tied,
            )
        except ValueError as e:
            raise ValueError(f"model.ladder[{i}]: {e}") from None
        if cfg in ladder:
            raise ValueError(f"model.ladder[{i}] repeats {cfg.size_id}")
        ladder.append(cfg)
    return ladder


def _grid_settings(app: AppConf) -> GridSettings:
    values = asdict(app.grid)
    del values["name"]
    return GridSettings(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _data(app: AppConf) -> DataSettings:
    if app.data.tokenizer not in VOCABULARY:
        raise ValueError(
            f"data.tokenizer={app.data.tokenizer} is unknown; it may be {', '.join(VOCABULARY)}"
        )
    values = asdict(app.data)
    return DataSettings(**{k: values[k] for k in DataSettings.__dataclass_fields__})


def _data_ref(app: AppConf) -> DataRef:
    for key in ("name", "revision"):
        if not getattr(app.data, key).strip():
            raise ValueError(f"data.{key} is empty")
    return DataRef(name=app.data.name, revision=app.data.revision, tokenizer=app.data.tokenizer)


def _rates(conf: HardwareConf) -> Rates:
    values = asdict(conf)
    return Rates(**{k: values[k] for k in Rates.__dataclass_fields__})
