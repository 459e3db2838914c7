"""The questions of `isoflop budget` about training: what it takes, what to train, energy, the data wall."""

from analysis.budget_data import FLAT, effective_tokens, most_effective, repetitions
from analysis.budget_laws import LAWS, BudgetLaw, plain
from analysis.budget_training import (
    days,
    emissions_kg,
    energy_kwh,
    gpu_hours,
    hours_of_money,
    sized_by_ratio,
    training_flops,
)
from sweep.arguments import Arguments
from sweep.budget_answer import Answer, Figure, Table, shown
from sweep.budget_given import Cluster, cluster_of, law_of, need, only_one
from sweep.budget_questions import CLUSTER, again
from sweep.errors import UsageError

_NO_INTERVAL = "no interval: published constants come with none here"
_NO_INTERVAL_OWN = "no interval: this is the law's best fit alone; fits.json has intervals in forecast, at the fit.targets asked of isoflop fit"


def short(value: float, unit: str) -> str:
    """Return a quantity in words, such as 7B or 1e22 FLOPs."""
    number = shown(Figure("", "", value, unit))
    return f"{number} FLOPs" if unit == "FLOPs" else number


def outside(law: BudgetLaw, N: float, D: float) -> list[str]:
    """Say where a law is asked beyond its runs, and that it comes without an interval."""
    said = [f"outside the runs of {law.name}: {words}" for words in law.outside(N, D)]
    return [*said, no_interval(law)]


def no_interval(law: BudgetLaw) -> str:
    """Say that an answer is a point."""
    return _NO_INTERVAL_OWN if law.own else _NO_INTERVAL


def size(N: float, D: float) -> list[Figure]:
    """N, D and D/N."""
    return [
        Figure("N", "parameters N", N, "parameters"),
        Figure("D", "training tokens D", D, "tokens"),
        Figure("tokens_per_param", "D/N", D / N, "tokens/parameter"),
    ]


def cost(C: float, cluster: Cluster | None) -> list[Figure]:
    """GPU-hours, days and money of a training run."""
    if cluster is None:
        return [Figure("gpu_hours", "GPU-hours", None, "GPU-hours", "give budget.hardware= and budget.mfu=")]  # fmt: skip
    hours = gpu_hours(C, cluster.rate)
    figures = [
        Figure("mfu", "MFU", cluster.rate.mfu, "share", cluster.mfu_source),
        Figure("gpu_hours", "GPU-hours", hours, "GPU-hours"),
    ]
    if cluster.gpus is not None:
        label = f"days on {cluster.gpus} GPUs"
        figures.append(Figure("days", label, days(hours, cluster.gpus), "days"))
    return [*figures, money(hours, cluster.price)]


def money(hours: float, price: float | None) -> Figure:
    """Cost of GPU-hours; blank until a price is set."""
    if price is None:
        return Figure("money", "cost", None, "$", "give budget.price=, dollars a GPU-hour")
    return Figure("money", "cost", hours * price, "$")


def sources(cluster: Cluster | None) -> list[str]:
    """Where the peak is from."""
    if cluster is None:
        return []
    return [f"{cluster.name}, {plain(cluster.rate.peak, 4)} FLOP/s: {cluster.source}"]


def train(args: Arguments) -> Answer:
    """FLOPs, GPU-hours, days, money and loss of N parameters on D tokens."""
    budget, law = args.app.budget, law_of(args.app)
    need(budget, "N", "D")
    N, D, cluster = budget.N, budget.D, cluster_of(budget)
    C = training_flops(N, D)
    figures = [*size(N, D), Figure("C", "training compute 6ND", C, "FLOPs")]
    flags = outside(law, N, D)
    if budget.C is not None:
        of_box = C / budget.C
        figures.append(
            Figure("share_of_C", f"of the stated {short(budget.C, 'FLOPs')}", of_box, "times")
        )
        if abs(of_box - 1) > 0.01:
            flags.insert(
                0, f"N and D spend {of_box:.3g} of the stated C: 6 x N x D must give it back"
            )
    figures += [*cost(C, cluster), Figure("loss", "loss", law.loss(N, D), "nats/token")]
    return Answer(
        f"Training {short(N, 'parameters')} parameters on {short(D, 'tokens')} tokens",
        figures, law=law, sources=sources(cluster), flags=flags,
        next=f"the best use of that compute: {again(args, 'optimal', C=plain(C, 4))}",
    )  # fmt: skip


def optimal(args: Arguments) -> Answer:
    """N, D and loss that a budget in FLOPs, GPU-hours or money buys."""
    budget, law = args.app.budget, law_of(args.app)
    kind = only_one(budget, "C", "gpu_hours", "money")
    cluster = cluster_of(budget, needed=kind != "C")
    if kind == "money" and not budget.price:
        raise UsageError("budget.money needs budget.price=, dollars for a GPU-hour, above 0")
    C = _compute(budget, kind, cluster)
    r = budget.tokens_per_param
    N, D = law.optimum(C) if r is None else sized_by_ratio(C, r)
    how = "" if r is None else f" at D/N = {r:g}"
    figures = [Figure("C", "training compute", C, "FLOPs"), *size(N, D)]
    figures += [Figure("loss", "loss", law.loss(N, D), "nats/token"), *cost(C, cluster)]
    compared = r is None and not law.own
    tables = [Table("laws", [_optimum_row(v, C) for v in _with(law)])] if compared else []
    flags = outside(law, N, D)
    if r is not None:
        best = law.optimum(C)
        gap = law.loss(N, D) - law.loss(*best)
        flags.append(f"the law's own optimum there has D/N = {best[1] / best[0]:.3g}, and a loss lower by {gap:.4f}")  # fmt: skip
    elif compared:
        flags.append("the laws in the table disagree: read them as a range, which is no interval")  # fmt: skip
    return Answer(
        f"What {short(C, 'FLOPs')} buy{how}", figures, tables, law, sources(cluster), flags,
        f"counting what it will serve: {again(args, 'inference', drop=CLUSTER, N=plain(N, 4), serve_tokens='1e12')}",
    )  # fmt: skip


def _compute(budget, kind: str, cluster: Cluster | None) -> float:
    if kind == "C":
        return budget.C
    hours = budget.gpu_hours if kind == "gpu_hours" else hours_of_money(budget.money, budget.price)
    return hours * cluster.rate.flops_per_hour


def _with(law: BudgetLaw) -> list[BudgetLaw]:
    """Return the law first, and the published ones that count all parameters beside it."""
    return [law, *(v for v in LAWS.values() if v is not law and v.N_convention == "total")]


def _optimum_row(law: BudgetLaw, C: float) -> list[Figure]:
    N, D = law.optimum(C)
    return [Figure("law", "law", law.name), *_row(N, D, law)]


def _row(N: float, D: float, law: BudgetLaw) -> list[Figure]:
    return [
        Figure("N", "N", N, "parameters"),
        Figure("D", "D", D, "tokens"),
        Figure("tokens_per_param", "D/N", D / N, "tokens/parameter"),
        Figure("loss", "loss", law.loss(N, D), "nats/token"),
    ]


def budgets(args: Arguments) -> Answer:
    """Optimum and cost of several budgets."""
    budget, law = args.app.budget, law_of(args.app)
    need(budget, "budgets")
    if not budget.budgets:
        raise UsageError("budget.budgets=[] is empty; for example budget.budgets=[1e20,1e21,1e22]")
    cluster = cluster_of(budget)
    rows = []
    for C in budget.budgets:
        N, D = law.optimum(C)
        spent = [f for f in cost(C, cluster) if f.key != "mfu"] if cluster else []
        inside = "no" if law.outside(N, D) else "yes" if law.ranges else "not known"
        rows.append([Figure("C", "C", C, "FLOPs"), *_row(N, D, law), *spent, Figure("fitted", "within the runs", inside)])  # fmt: skip
    flags = [
        f"at C = {plain(C)}: {said}"
        for C in budget.budgets
        for said in law.outside(*law.optimum(C))
    ]
    flags.append(no_interval(law))
    return Answer(
        "Compute-optimal models by budget", [], [Table("budgets", rows)], law, sources(cluster), flags,
        f"one of them in full: {again(args, 'optimal', drop=('budgets',), C=plain(budget.budgets[0], 6))}",
    )  # fmt: skip


def energy(args: Arguments) -> Answer:
    """Energy and emissions of a training run."""
    budget = args.app.budget
    need(budget, "N", "D")
    cluster = cluster_of(budget, needed=True)
    watts = budget.watts or (cluster.board and cluster.board.max_watts)
    if watts is None:
        raise UsageError("budget.peak says no power: add budget.watts=, of one device")
    hours = gpu_hours(training_flops(budget.N, budget.D), cluster.rate)
    kwh = energy_kwh(hours, watts, budget.pue)
    given = "as typed" if budget.watts else "the datasheet's limit, which is an upper bound"
    figures = [
        Figure("C", "training compute 6ND", training_flops(budget.N, budget.D), "FLOPs"),
        Figure("mfu", "MFU", cluster.rate.mfu, "share", cluster.mfu_source),
        Figure("gpu_hours", "GPU-hours", hours, "GPU-hours"),
        Figure("watts", "power of a device", watts, "watts", given),
        Figure("kwh", f"energy at PUE {budget.pue:g}", kwh, "kWh"),
        Figure("co2", "emissions", None, "kg CO2e", "give budget.carbon=, kg CO2e per kWh of your grid")
        if budget.carbon is None
        else Figure("co2", "emissions", emissions_kg(kwh, budget.carbon), "kg CO2e"),
    ]  # fmt: skip
    flags = [] if budget.pue > 1 else ["PUE 1 counts the devices alone: hosts, network and cooling come on top"]  # fmt: skip
    flags.append("making the hardware is not counted")
    return Answer(
        f"Energy of {short(budget.N, 'parameters')} parameters on {short(budget.D, 'tokens')} tokens",
        figures, sources=sources(cluster), flags=flags,
        next=f"the loss and the money: {again(args, 'train', drop=('watts', 'pue', 'carbon'))}",
    )  # fmt: skip


def data(args: Arguments) -> Answer:
    """Say what repeated tokens are worth, and where the data run out."""
    budget, law = args.app.budget, law_of(args.app)
    need(budget, "unique_tokens")
    if budget.C is not None:
        only_one(budget, "C", "D", "N")
        N, D = law.optimum(budget.C)
    else:
        need(budget, "N", "D")
        N, D = budget.N, budget.D
    U = budget.unique_tokens
    figures = [
        *size(N, D),
        Figure("unique_tokens", "unique tokens", U, "tokens"),
        Figure("epochs", "passes over them", D / U, "times"),
        Figure("repetitions", "repetitions beyond the first", repetitions(D, U), "times"),
        Figure("loss_unlimited", "loss on as many fresh tokens", law.loss(N, D), "nats/token"),
        Figure("wall_C", "compute whose optimum takes them once", law.budget_of_tokens(U), "FLOPs"),
    ]
    stars = FLAT if budget.R_D is None else (budget.R_D,)
    rows = [_worth(law, N, D, U, star) for star in stars]
    flags = outside(law, N, D)
    if budget.R_D is None:
        flags.append("R* is not identified: the runs of the paper fit as well with any from 14 to 200, so read a range")  # fmt: skip
    flags.append("the law can't make the loss rise; without more regularisation repeated data does")
    source = "Muennighoff et al. 2023, arXiv:2305.16264, eq. 5; parameters are taken at full worth"
    return Answer(
        f"{short(D, 'tokens')} tokens of {short(U, 'tokens')} that are distinct",
        figures, [Table("effective", rows)], law, [source], flags,
        f"a smaller run: {again(args, 'optimal', drop=('N', 'D', 'unique_tokens', 'R_D'), C=plain(law.budget_of_tokens(U)))}",
    )  # fmt: skip


def _worth(law: BudgetLaw, N: float, D: float, U: float, star: float) -> list[Figure]:
    worth = effective_tokens(D, U, star)
    return [
        Figure("R_D", "R*", star),
        Figure("effective_tokens", "worth fresh tokens", worth, "tokens"),
        Figure("share", "of D", worth / D, "share"),
        Figure("loss", "loss", law.loss(N, worth), "nats/token"),
        Figure("most", "any number of passes is worth at most", most_effective(U, star), "tokens"),
    ]
