"""From the keys of `isoflop budget` to checked values: the law, the hardware, what is to be served."""

import math
from dataclasses import dataclass, fields

from analysis.budget_inference import Prices, Trained
from analysis.budget_laws import DEFAULT_LAW, LAWS, BudgetLaw, law_of_fits
from analysis.budget_training import Rate
from conf.schema import AppConf, BudgetConf
from models.boards import BOARDS, Board
from sweep.budget_answer import scaled
from sweep.documents import expand
from sweep.errors import UsageError, nearest

_MAY_BE_ZERO = ("price", "serve_price", "carbon")
_HUGE = 1e40  # no quantity of a plan is larger, and no power of one overflows


@dataclass(frozen=True)
class Cluster:
    """The devices that train (or serve), how well they are used, and what they cost."""

    rate: Rate
    name: str
    source: str  # of the peak
    mfu_source: str
    price: float | None = None
    gpus: int | None = None
    board: Board | None = None


def check_numbers(budget: BudgetConf) -> None:
    """Refuse numbers that nothing can have.

    Raises:
        UsageError: a number that is negative, zero where it can't be, not finite, or out of range.
    """
    for f in fields(BudgetConf):
        value = getattr(budget, f.name)
        for v in value if isinstance(value, list) else [value]:
            if isinstance(v, int | float):
                _check_number(f.name, v)
    for name in ("mfu", "serve_mfu"):
        value = getattr(budget, name)
        if value is not None and value > 1:
            raise UsageError(
                f"budget.{name}={value:g} must lie in (0, 1]: it is a share of the peak"
            )
    if budget.pue < 1:
        raise UsageError(f"budget.pue={budget.pue:g} is below 1: it counts the devices' own energy")


def _check_number(name: str, value: float) -> None:
    low_enough = value >= 0 if name in _MAY_BE_ZERO else value > 0
    if not (low_enough and value < _HUGE):
        least = "not negative" if name in _MAY_BE_ZERO else "positive"
        raise UsageError(f"budget.{name}={value:g} must be {least}, and below {_HUGE:g}")


def need(budget: BudgetConf, *names: str) -> None:
    """Refuse a question without what it needs, all at once."""
    missing = [f"budget.{n}=" for n in names if getattr(budget, n) is None]
    if missing:
        raise UsageError(
            f"budget.ask={budget.ask} needs {' and '.join(missing)}; "
            f"what each question takes: isoflop budget --help"
        )


def only_one(budget: BudgetConf, *names: str) -> str:
    """Return the one of these keys that is set.

    Raises:
        UsageError: none or several are.
    """
    have = [n for n in names if getattr(budget, n) is not None]
    if len(have) != 1:
        said = "needs one of" if not have else "takes only one of"
        raise UsageError(
            f"budget.ask={budget.ask} {said} {', '.join(f'budget.{n}=' for n in have or names)}"
        )
    return have[0]


def law_of(app: AppConf) -> BudgetLaw:
    """Return the law that is asked for: fits=FILE, or a published one."""
    if not app.fits:
        name = app.budget.law or DEFAULT_LAW
        if name not in LAWS:
            raise UsageError(
                f"budget.law={name} is unknown; it may be {', '.join(LAWS)}, or give "
                "fits=[FILE] for your own"
            )
        return LAWS[name]
    if app.budget.law is not None:
        raise UsageError("budget.law and fits both name a law: leave one out")
    if len(app.fits) > 1:
        raise UsageError(f"fits names {len(app.fits)} files; budget reads one law, so name one")
    from analysis.fits_file import FitsError, read_fits

    try:
        return law_of_fits(read_fits(expand(app.fits[0])), app.fits[0])
    except (FitsError, ValueError) as e:
        raise UsageError(str(e)) from None


def cluster_of(budget: BudgetConf, needed: bool = False) -> Cluster | None:
    """Return the devices that train, or None where none are named.

    Raises:
        UsageError: no device although one is needed or spoken of, no MFU, or two of either.
    """
    if budget.hardware is None and budget.peak is None:
        spoken = [n for n in ("gpus", "mfu", "records", "price") if getattr(budget, n) is not None]
        if spoken or needed:
            why = (
                f"budget.{spoken[0]} is not used" if spoken else f"budget.ask={budget.ask} is empty"
            )
            raise UsageError(
                f"{why} without budget.hardware= ({', '.join(BOARDS)}) or budget.peak=FLOP/s"
            )
        return None
    peak, name, source, board = device(budget.hardware, budget.peak, "")
    mfu, mfu_source = _mfu(budget)
    rate = _rate(peak, mfu, "")
    return Cluster(rate, name, source, mfu_source, budget.price, budget.gpus, board)


def _rate(peak: float, mfu: float, prefix: str) -> Rate:
    try:
        return Rate(peak, mfu)
    except ValueError as e:
        raise UsageError(f"budget.{prefix}peak and budget.{prefix}mfu: {e}") from None


def device(
    hardware: str | None, peak: float | None, prefix: str
) -> tuple[float, str, str, Board | None]:
    """Peak, name, source and board of a named board or of a peak that is given."""
    if hardware is not None and peak is not None:
        raise UsageError(
            f"budget.{prefix}hardware and budget.{prefix}peak contradict: leave one out"
        )
    if hardware is None:
        return peak, "the given peak", "budget.peak, as typed", None
    if hardware not in BOARDS:
        near = nearest(hardware, BOARDS)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"budget.{prefix}hardware={hardware} is unknown; {hint}it may be {', '.join(BOARDS)}, "
            f"or give budget.{prefix}peak=FLOP/s"
        )
    board = BOARDS[hardware]
    return board.flops, board.board, board.source, board


def _mfu(budget: BudgetConf) -> tuple[float, str]:
    if (budget.mfu is None) == (budget.records is None):
        both = budget.mfu is not None
        raise UsageError(
            "budget.mfu and budget.records both give the MFU: leave one out"
            if both
            else "how well is the hardware used? Give budget.mfu= (assumed) or budget.records=FILE "
            "(a records.parquet, measured)"
        )
    if budget.mfu is not None:
        return budget.mfu, "assumed"
    return measured_mfu(budget.records)


def measured_mfu(path: str) -> tuple[float, str]:
    """Median MFU of the finished cells of a records.parquet, and where it is from.

    Raises:
        UsageError: no such file, or none of its cells has an MFU.
    """
    from statistics import median

    import pyarrow as pa
    import pyarrow.parquet as pq

    file = expand(path)
    try:
        rows = pq.read_table(file, columns=["mfu", "status", "board"]).to_pylist()
    except FileNotFoundError:
        raise UsageError(
            f"budget.records={path} does not exist; isoflop collect makes it"
        ) from None
    except (OSError, pa.ArrowException, KeyError, ValueError) as e:
        said = str(e).splitlines()[0][:120]
        raise UsageError(f"budget.records={path} is no records.parquet ({said})") from None
    known = [r for r in rows if r["status"] == "finished" and _is_share(r["mfu"])]
    if not known:
        raise UsageError(
            f"budget.records={path} has no finished cell with an MFU (a device without a datasheet "
            "peak has none): give budget.mfu="
        )
    values = [r["mfu"] for r in known]
    boards = ", ".join(sorted({str(r["board"]) for r in known}))
    spread = f"{min(values):.3g} to {max(values):.3g}"
    return median(values), f"measured: median of {len(values)} cells ({spread}) on {boards}"


def _is_share(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and 0 < value <= 1


def served_tokens(budget: BudgetConf) -> float:
    """Tokens that are to be served."""
    if only_one(budget, "serve_tokens", "queries") == "queries":
        need(budget, "tokens_per_query")
        return budget.queries * budget.tokens_per_query
    if budget.tokens_per_query is not None:
        raise UsageError("budget.tokens_per_query goes with budget.queries, not with serve_tokens")
    return budget.serve_tokens


_MONEY = ("hardware", "peak", "mfu", "records", "price", "serve_hardware", "serve_peak",
          "serve_mfu", "serve_price")  # fmt: skip


def prices_of(budget: BudgetConf) -> tuple[Prices, Cluster | None, Cluster | None]:
    """Cost of a FLOP in training and in serving: dollars where prices are given, else 1 and 1.

    Raises:
        UsageError: some but not all of what the prices take.
    """
    if not any(getattr(budget, n) is not None for n in _MONEY):
        return Prices(), None, None
    training = cluster_of(budget, needed=True)
    need(budget, "price", "serve_price", "serve_mfu")
    if budget.serve_hardware is None and budget.serve_peak is None:
        peak, name, source, board = (
            training.rate.peak,
            training.name,
            training.source,
            training.board,
        )
    else:
        peak, name, source, board = device(budget.serve_hardware, budget.serve_peak, "serve_")
    serving = Cluster(
        _rate(peak, budget.serve_mfu, "serve_"),
        name,
        source,
        "assumed",
        budget.serve_price,
        None,
        board,
    )
    try:
        per_flop = [c.price / c.rate.flops_per_hour for c in (training, serving)]
        return Prices(*per_flop), training, serving
    except ValueError:
        raise UsageError(
            "budget.price and budget.serve_price must both be positive here: "
            "without a price of one, the other decides nothing"
        ) from None


def quality(budget: BudgetConf, law: BudgetLaw) -> tuple[float, Trained | None, str]:
    """Loss to reach, the model that sets it (None where a loss was given), and words for it."""
    if budget.loss is not None:
        if budget.N is not None or budget.D is not None:
            raise UsageError("budget.loss and budget.N both set the quality: leave one out")
        return budget.loss, None, f"a loss of {budget.loss:g}"
    need(budget, "N")
    if budget.D is not None:
        model, how = Trained(budget.N, budget.D), f"on {scaled(budget.D)} tokens"
    else:
        model = Trained(budget.N, law.tokens_of_optimum(budget.N))
        how = f"on the compute-optimal {scaled(model.D)} tokens"
    return law.loss(model.N, model.D), model, f"{scaled(model.N)} parameters {how}"
