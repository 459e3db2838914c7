"""The questions of `isoflop budget` about serving: inference-aware sizes, over-training, constraints."""

from analysis.budget_inference import (
    Prices,
    Trained,
    break_even,
    cheapest,
    compute_optimal_at,
    condition,
    trained_longer,
)
from analysis.budget_laws import BudgetLaw, plain
from analysis.budget_serving import (
    BYTES,
    CacheShape,
    largest_model,
    price_per_million,
    seconds_to_compute,
    seconds_to_read,
    tokens_per_second,
    training_bytes,
    weight_bytes,
)
from conf.schema import BudgetConf
from models.boards import Board
from sweep.arguments import Arguments
from sweep.budget_answer import Answer, Figure, Table
from sweep.budget_given import Cluster, device, law_of, need, prices_of, quality, served_tokens
from sweep.budget_questions import again
from sweep.budget_training import outside, short, size, sources
from sweep.errors import UsageError

_SARDANA = "Sardana & Frankle 2024, arXiv:2401.00448: least 6 N D + 2 N D_inf at a given loss"
_TOO_LONG = "laws fitted at usual D/N overestimate what tokens bring at extreme ones (Sardana & Frankle 2024)"
_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)


def inference(args: Arguments) -> Answer:
    """N and D of least cost over training and serving, at a quality."""
    app = args.app
    law, served = law_of(app), served_tokens(app.budget)
    loss, reference, words = _quality(app.budget, law)
    prices, training, serving = prices_of(app.budget)
    unit = "FLOPs" if training is None else "$"
    best = _or_refuse(lambda: cheapest(law, loss, served, prices))
    base = reference or compute_optimal_at(law, loss)
    spent, before = prices.cost(best.N, best.D, served), prices.cost(base.N, base.D, served)
    figures = [
        Figure("loss", "loss to reach", loss, "nats/token", words),
        Figure("serve_tokens", "tokens to serve", served, "tokens"),
        *size(best.N, best.D),
        Figure("N_ratio", "N over the reference's", best.N / base.N, "times"),
        Figure("D_ratio", "D over the reference's", best.D / base.D, "times"),
        Figure("cost", "training and serving", spent, unit),
        Figure("cost_reference", "the same of the reference", before, unit),
        Figure("cost_ratio", "ratio", spent / before, "times"),
        Figure("condition", "first-order condition", condition(law, best, served, prices), "",
               "0 at the optimum"),
    ]  # fmt: skip
    if best.N < base.N * (1 - 1e-9):
        figures.append(Figure("break_even", "cheaper from", break_even(base, best, prices), "tokens", "served"))  # fmt: skip
    flags = [*_beyond(law, best), *([] if training else ["a serving FLOP is taken to cost what a training FLOP does; serving reaches a lower MFU: give prices and MFUs of both"])]  # fmt: skip
    return Answer(
        f"The cheapest model of the quality of {words}, serving {short(served, 'tokens')} tokens",
        figures, law=law, sources=[_SARDANA, *_both(training, serving)], flags=flags,
        next=f"smaller ones, trained longer: {again(args, 'overtrain')}",
    )  # fmt: skip


def overtrain(args: Arguments) -> Answer:
    """Compare smaller models of one quality: the overhead, and what they must serve to pay."""
    app = args.app
    law = law_of(app)
    loss, reference, words = _quality(app.budget, law)
    prices, training, serving = prices_of(app.budget)
    served = None
    if app.budget.serve_tokens is not None or app.budget.queries is not None:
        served = served_tokens(app.budget)
    elif app.budget.tokens_per_query is not None:
        raise UsageError("budget.tokens_per_query goes with budget.queries=")
    base = reference or compute_optimal_at(law, loss)
    sizes = app.budget.sizes or [share * base.N for share in _SHARES]
    models = trained_longer(law, loss, sizes)
    rows = [_row(law, N, m, base, prices, served, bool(training)) for N, m in zip(sizes, models, strict=True)]  # fmt: skip
    flags = []
    if any(m is None for m in models):
        flags.append("sizes without D reach that loss with no number of tokens")
    if any(m is not None and _long(law, m) for m in models):
        flags.append(f"'beyond' marks D/N above the runs of {law.name}: {_TOO_LONG}")
    return Answer(
        f"Models of the quality of {words}, a loss of {loss:.3f}",
        [Figure("loss", "loss to reach", loss, "nats/token"), *size(base.N, base.D)],
        [Table("curve", rows)], law, [_SARDANA, *_both(training, serving)], flags,
        f"the cheapest for a volume: {again(args, 'inference', drop=('sizes',), **({} if served else {'serve_tokens': '1e12'}))}",
    )  # fmt: skip


def _row(
    law: BudgetLaw, N: float, model: Trained | None, base: Trained, prices: Prices,
    served: float | None, in_money: bool,
) -> list[Figure]:  # fmt: skip
    D = model and model.D
    C = D and 6 * N * D
    pays = model and break_even(base, model, prices) if N < base.N else None
    row = [
        Figure("N", "N", N, "parameters"),
        Figure("D", "D", D, "tokens"),
        Figure("tokens_per_param", "D/N", D and D / N, "tokens/parameter"),
        Figure("C", "training", C, "FLOPs"),
        Figure("overhead", "overhead", C and C / (6 * base.N * base.D), "times"),
        Figure("break_even", "cheaper once served", pays, "tokens"),
    ]
    if served is not None:
        total = D and prices.cost(N, D, served)
        row.append(Figure("cost", "in all", total, "$" if in_money else "FLOPs"))
    beyond = "unreachable" if model is None else "beyond" if _long(law, model) else "within"
    known = model is None or "tokens_per_param" in law.ranges
    return [*row, Figure("extrapolation", "D/N of the runs", beyond if known else "not known")]


def _quality(budget: BudgetConf, law: BudgetLaw) -> tuple[float, Trained | None, str]:
    loss, reference, words = quality(budget, law)
    _or_refuse(lambda: law.term_sum(loss))
    if loss > law.loss(1e3, 1e3):
        raise UsageError(
            f"budget.loss={loss:g} is that of no language model under the law {law.name}"
        )
    return loss, reference, words


def _or_refuse(f):
    try:
        return f()
    except ValueError as e:
        raise UsageError(str(e)) from None


def _long(law: BudgetLaw, model: Trained) -> bool:
    _, high = law.ranges.get("tokens_per_param", (0, float("inf")))
    return model.D / model.N > high


def _beyond(law: BudgetLaw, model: Trained) -> list[str]:
    said = outside(law, model.N, model.D)
    return [*said, _TOO_LONG] if _long(law, model) else said


def _both(training: Cluster | None, serving: Cluster | None) -> list[str]:
    lines = sources(training)
    return lines + [s for s in sources(serving) if s not in lines]


def serve(args: Arguments) -> Answer:
    """Memory, latency floor, cache and price of serving N parameters."""
    budget = args.app.budget
    need(budget, "N")
    if budget.dtype not in BYTES:
        raise UsageError(f"budget.dtype={budget.dtype} is unknown; it may be {', '.join(BYTES)}")
    board = _board(budget)
    _refuse_idle(budget, board)
    peak = board.flops if board else budget.peak
    cache = _cache_bytes(budget)
    weights = weight_bytes(budget.N, budget.dtype)
    gpus = budget.gpus or 1
    figures = [
        Figure("weight_bytes", f"weights in {budget.dtype}", weights, "bytes"),
        Figure("cache_bytes", "KV cache", cache, "bytes", _cache_words(budget)),
        Figure("bytes", "both", weights + (cache or 0), "bytes"),
        Figure("training_bytes", "state of training, float32 AdamW", training_bytes(budget.N), "bytes",
               "16 bytes a parameter, activations apart"),
    ]  # fmt: skip
    figures += _fits(budget, board, weights, cache or 0.0, gpus)
    figures += _speed(budget, board, peak, weights + (cache or 0.0), gpus)
    flags = ["a floor on the time of a step: nothing but reading weights and cache once; real ones are slower"]  # fmt: skip
    if cache is None:
        flags.append("without the cache: give budget.context, n_layer, n_kv_head and head_dim")
    if gpus > 1:
        flags.append("devices are taken to share the model for nothing")
    said = (
        [f"{board.board}: {s}" for s in (board.source, board.memory_source) if s] if board else []
    )
    return Answer(
        f"Serving {short(budget.N, 'parameters')} parameters",
        figures, sources=said, flags=[*flags, *_out_of_reach(figures)],
        next=f"which size serves cheapest: isoflop budget budget.ask=inference budget.N={plain(budget.N, 6)} budget.serve_tokens=1e12",
    )  # fmt: skip


def _refuse_idle(budget: BudgetConf, board: Board | None) -> None:
    """Refuse a price or a number of devices that would change nothing."""
    bandwidth = budget.bandwidth or (board and board.bytes_per_second)
    memory = budget.memory or (board and board.memory_bytes)
    if budget.price is not None and budget.mfu is None and bandwidth is None:
        raise UsageError("budget.price is not used without budget.mfu= or budget.bandwidth=")
    if budget.gpus is not None and budget.mfu is None and bandwidth is None and memory is None:
        raise UsageError("budget.gpus is not used without budget.hardware=, memory= or bandwidth=")


def _board(budget: BudgetConf) -> Board | None:
    if budget.hardware is None:
        if budget.peak is None and budget.mfu is not None:
            raise UsageError("budget.mfu is not used without budget.hardware= or budget.peak=")
        return None
    return device(budget.hardware, budget.peak, "")[3]


def _cache_bytes(budget: BudgetConf) -> float | None:
    shape = {n: getattr(budget, n) for n in ("n_layer", "n_kv_head", "head_dim", "context")}
    missing = [n for n, v in shape.items() if v is None]
    if len(missing) == 4:
        return None
    if missing:
        raise UsageError(f"a KV cache also needs {', '.join(f'budget.{n}=' for n in missing)}")
    tokens = shape.pop("context") * budget.batch
    return CacheShape(**shape).bytes_per_token(BYTES[budget.dtype]) * tokens


def _cache_words(budget: BudgetConf) -> str:
    if budget.context is None:
        return "give budget.context=, n_layer=, n_kv_head=, head_dim="
    return f"{budget.batch} x {budget.context:,} tokens"


def _fits(
    budget: BudgetConf, board: Board | None, weights: float, cache: float, gpus: int
) -> list[Figure]:
    memory = budget.memory or (board and board.memory_bytes)
    if memory is None:
        return [Figure("memory", "memory of a device", None, "bytes", "not known: give budget.memory=, bytes")]  # fmt: skip
    whole = memory * gpus
    verdict = "fits" if weights + cache <= whole else "does not fit"
    return [
        Figure("memory", f"memory of {gpus} GPU{'s' * (gpus > 1)}", whole, "bytes", verdict),
        Figure("largest_N", "largest N that fits", largest_model(whole, cache, budget.dtype), "parameters"),
    ]  # fmt: skip


def _speed(
    budget: BudgetConf, board: Board | None, peak: float | None, read: float, gpus: int
) -> list[Figure]:
    bandwidth = budget.bandwidth or (board and board.bytes_per_second)
    figures = []
    if bandwidth is None:
        note = "not known: give budget.bandwidth=, bytes/s"
        figures.append(Figure("latency_floor", "a step takes at least", None, "seconds", note))
    else:
        step = seconds_to_read(read, bandwidth * gpus)
        if peak is not None:
            step = max(step, seconds_to_compute(budget.N, budget.batch, peak * gpus))
        figures += [
            Figure("latency_floor", "a step takes at least", step, "seconds"),
            Figure(
                "tokens_per_second_most",
                f"tokens/s at most, at batch {budget.batch}",
                budget.batch / step,
            ),
        ]
        if budget.price is not None:
            least = price_per_million(budget.price * gpus, budget.batch / step)
            label = f"a million tokens at batch {budget.batch} cost at least"
            figures.append(Figure("price_floor", label, least, "$"))
    return figures + _at_mfu(budget, peak, gpus)


def _out_of_reach(figures: list[Figure]) -> list[str]:
    """Say where the assumed MFU is more than memory bandwidth allows at this batch."""
    rates = {f.key: f.value for f in figures}
    most, assumed = rates.get("tokens_per_second_most"), rates.get("tokens_per_second")
    if most is None or assumed is None or assumed <= most:
        return []
    return [
        f"that MFU is out of reach at this batch: memory allows {plain(most)} tokens/s, it means "
        f"{plain(assumed)}; serve more sequences at once, budget.batch="
    ]


def _at_mfu(budget: BudgetConf, peak: float | None, gpus: int) -> list[Figure]:
    if peak is None or budget.mfu is None:
        note = "give budget.price= and budget.mfu=, of a device with a peak"
        return [Figure("price_per_million", "a million tokens at an MFU", None, "$", note)]
    rate = tokens_per_second(budget.N, peak * gpus * budget.mfu)
    figures = [Figure("tokens_per_second", f"tokens/s at MFU {budget.mfu:g}", rate)]
    if budget.price is None:
        return [*figures, Figure("price_per_million", "a million tokens", None, "$", "give budget.price=")]  # fmt: skip
    price = price_per_million(budget.price * gpus, rate)
    return [
        *figures,
        Figure("price_per_million", f"a million tokens at MFU {budget.mfu:g}", price, "$"),
    ]
