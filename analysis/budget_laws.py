"""Scaling laws with published constants, for planning arithmetic: standard library only.

All have the form L = E + (A/N^alpha + B/D^beta)^gamma, with gamma = 1 but in Kaplan's. The laws that
are fitted live in analysis/laws.py, over arrays; these answer before numpy would be imported, and
tests hold the two equal.
"""

import math
from dataclasses import dataclass, field

_LOG_HUGE = 500.0  # of a number of tokens: beyond any, and its powers are finite
_RANGES = ("C", "N", "D", "tokens_per_param")
_SAID = {"C": "C", "N": "N", "D": "D", "tokens_per_param": "D/N"}


def plain(value: float, digits: int = 3) -> str:
    """Return a number as people type it: 4.2e22, not 4.2e+22."""
    mantissa, e, exponent = f"{value:.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


@dataclass(frozen=True, kw_only=True)
class BudgetLaw:
    """L = E + (A/N^alpha + B/D^beta)^gamma, nats per token, with where it comes from.

    `ranges` holds the fitted range, (low, high), of C (FLOPs), N (parameters), D (tokens) and
    tokens_per_param; what is not known is absent.
    """

    name: str
    E: float
    A: float
    B: float
    alpha: float
    beta: float
    gamma: float = 1.0
    N_convention: str
    source: str
    regime: str
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    own: bool = False  # of a fits.json: its losses are of other data than the published laws'

    @property
    def a(self) -> float:
        """Exponent of N_opt ~ C^a."""
        return self.beta / (self.alpha + self.beta)

    def loss(self, N: float, D: float) -> float:
        """Loss in nats per token of N parameters on D tokens."""
        return self.E + (self.A * N**-self.alpha + self.B * D**-self.beta) ** self.gamma

    def optimum(self, C: float) -> tuple[float, float]:
        """N and D of least loss at C = 6ND FLOPs (Hoffmann et al. 2022, eq. 4).

        G = (alpha A / (beta B))^(1/(alpha+beta)), N = G (C/6)^a, D = (C/6)^b / G. gamma does not
        move it: the power of a sum is least where the sum is.
        """
        N = self._G() * (C / 6) ** self.a
        return N, C / (6 * N)

    def tokens_of_optimum(self, N: float) -> float:
        """D for which N parameters are the optimum of C = 6ND."""
        return (N / self._G()) ** (1 / self.a) / N

    def budget_of_tokens(self, D: float) -> float:
        """C in FLOPs whose optimum takes D tokens."""
        return 6 * (D * self._G()) ** (1 / (1 - self.a))

    def tokens_for(self, N: float, loss: float) -> float:
        """Tokens with which N parameters reach a loss.

        Raises:
            ValueError: no number of tokens does.
        """
        left = self.term_sum(loss) - self.A * N**-self.alpha
        if left > 0 and (tokens := math.log(self.B / left) / self.beta) < _LOG_HUGE:
            return math.exp(tokens)
        raise ValueError(
            f"{N:.3g} parameters reach no loss below {self.loss(N, math.inf):.4f} under the law"
            f" {self.name}, with any number of tokens; {loss:.4f} was asked"
        )

    def term_sum(self, loss: float) -> float:
        """A/N^alpha + B/D^beta that gives a loss.

        Raises:
            ValueError: the loss is not above E.
        """
        if not loss > self.E:
            raise ValueError(
                f"no model reaches {loss:g} under the law {self.name}: its E is {self.E:g}"
            )
        return (loss - self.E) ** (1 / self.gamma)

    def outside(self, N: float, D: float) -> list[str]:
        """How N, D, C = 6ND and D/N leave the range in which the law was fitted, in words."""
        values = {"C": 6 * N * D, "N": N, "D": D, "tokens_per_param": D / N}
        return [said for key in _RANGES if (said := self._leaves(key, values[key]))]

    def _leaves(self, key: str, value: float) -> str | None:
        low, high = self.ranges.get(key, (-math.inf, math.inf))
        if value < low:
            times = plain(low / value)
            return (
                f"{_SAID[key]} = {plain(value)} is {times}x below the smallest fitted, {plain(low)}"
            )
        if value > high:
            times = plain(value / high)
            return (
                f"{_SAID[key]} = {plain(value)} is {times}x above the largest fitted, {plain(high)}"
            )
        return None

    def _G(self) -> float:
        ratio = self.alpha * self.A / (self.beta * self.B)
        return ratio ** (1 / (self.alpha + self.beta))


_RUNS = {
    "C": (1.397e18, 1.296e22),
    "N": (5.73e7, 1.618e10),
    "D": (8.19e8, 3.178e11),
    "tokens_per_param": (0.456, 341.0),
}
_MASSIVETEXT = "the 240 runs that Epoch AI digitised and kept: N 57M to 16B, D .8B to 318B, D/N .46 to 341, one pass over MassiveText"

_ALL = (
    BudgetLaw(
        name="epoch", E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658,
        N_convention="total",
        source="Besiroglu et al. 2024, arXiv:2404.10102: refit of Hoffmann et al.'s figure 4",
        regime=_MASSIVETEXT, ranges=_RUNS,
    ),
    BudgetLaw(
        name="minimum", E=1.81722, A=477.83, B=2143.4, alpha=0.34731, beta=0.36717,
        N_convention="total",
        source="isoflop's own fit of the same 240 runs: the minimum of Hoffmann et al.'s objective (README)",
        regime=_MASSIVETEXT, ranges=_RUNS,
    ),
    BudgetLaw(
        name="hoffmann", E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28,
        N_convention="total",
        source="Hoffmann et al. 2022, arXiv:2203.15556, section D.3, as printed: rounding triples the objective",
        regime=_MASSIVETEXT, ranges=_RUNS,
    ),
    BudgetLaw(
        name="hoffmann_unrounded", E=1.6934, A=math.exp(6.0073404), B=math.exp(6.0179186),
        alpha=0.33917084, beta=0.2849083, N_convention="total",
        source="Hoffmann et al. 2022, arXiv:2203.15556, the TeX source's constants before rounding",
        regime=_MASSIVETEXT, ranges=_RUNS,
    ),
    BudgetLaw(
        name="muennighoff", E=math.exp(0.6254804), A=math.exp(6.255414), B=math.exp(7.3049974),
        alpha=0.3526596, beta=0.3526596, N_convention="total",
        source="Muennighoff et al. 2023, arXiv:2305.16264, constants of the repository datablations",
        regime="C4, the runs of its 182-run fit: N 7M to 8.7B, D .1B to 900B, of which most repeat",
        ranges={"N": (7.1e6, 8.67e9), "D": (1e8, 9e11)},
    ),
    BudgetLaw(
        name="kaplan", E=0.0, A=6.4e13 ** (0.076 / 0.103), B=1.8e13, alpha=0.076 / 0.103, beta=1.0,
        gamma=0.103, N_convention="non_embedding",
        source="Kaplan et al. 2020, arXiv:2001.08361, eq. 1.5 with table 2's constants; N without embeddings",
        regime="WebText2, trained to convergence; the range of N and D was not read, so nothing is flagged",
    ),
)  # fmt: skip

LAWS: dict[str, BudgetLaw] = {law.name: law for law in _ALL}
DEFAULT_LAW = "epoch"


def kaplan_of_N(N: float) -> float:
    """L(N) = (8.8e13/N)^.076, N non-embedding, data unlimited (Kaplan et al. 2020, eq. 1.1)."""
    return (8.8e13 / N) ** 0.076


def kaplan_of_D(D: float) -> float:
    """L(D) = (5.4e13/D)^.095, D tokens, parameters unlimited (Kaplan et al. 2020, eq. 1.2)."""
    return (5.4e13 / D) ** 0.095


def kaplan_of_C(pf_days: float) -> float:
    """L(C_min) = (3.1e8/C_min)^.050, C_min in petaflop/s-days (Kaplan et al. 2020, eq. 1.3)."""
    return (3.1e8 / pf_days) ** 0.050


_FITTED = ("chinchilla", "tied", "no_E", "coupled", "kaplan", "kaplan_E")


def law_of_fits(fits: dict, path: str) -> BudgetLaw:
    """Take approach 3 of a fits.json (as analysis.fits_file.read_fits gives it).

    Raises:
        ValueError: its law was not fitted, or is of another form; one line that says what to do.
    """
    fitted = fits["approach3"]
    values = fitted.get("parameters") or {}
    if not values or any(v is None for v in values.values()):
        raise ValueError(
            f"{path} has no law: approach3 is {fitted.get('status')} ({fitted.get('reason')});"
            " fit again, or name a published law with budget.law="
        )
    if fitted["law"] not in _FITTED:
        raise ValueError(
            f"approach3 of {path} is {fitted['law']}; budget reads {', '.join(_FITTED)}: fit again"
            " with fit.law=chinchilla"
        )
    points = fits["points"]
    status = fitted["status"]
    doubt = "" if status == "ok" else f"; its status is {status}: {fitted.get('reason')}"
    budgets = points.get("budgets") or []
    return BudgetLaw(
        name=f"{fitted['law']} of {path}",
        E=values.get("E", 0.0),
        A=values["A"],
        B=values["B"],
        alpha=values["alpha"],
        beta=values.get("beta", 1.0 if fitted["law"].startswith("kaplan") else values["alpha"]),
        gamma=values.get("gamma", 1.0),
        N_convention=points["N_convention"],
        source=f"approach 3 of {path}, {fitted['n']} runs, estimator {fitted['estimator']}{doubt}",
        regime=f"{len(budgets)} budgets of its own runs, FLOPs under {points['flop_rule']}",
        ranges={"C": (min(budgets), max(budgets))} if budgets else {},
        own=True,
    )
