"""Laws of mixtures of experts: each says which N it counts. They need columns of their own.

    fit = fit_law(KRAJEWSKI, N, D, loss, extra={"granularity": G})

They are not in LAWS: those are fitted to every table of dense runs. Published constants are here
under the names of the papers, second-hand, for models, data and tokenizers of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from analysis.laws_formulas import sum_of_terms, sum_of_terms_derivatives
from analysis.laws_jets import exp, log
from analysis.laws_optima import no_optimum
from analysis.laws_types import Form, Law

Array = np.ndarray


KRAJEWSKI = Law(
    name="krajewski",
    parameters=("E", "A", "G", "B", "alpha", "beta", "gamma"),
    source=(
        "Krajewski et al. 2024, arXiv:2402.07871: c + (g/G^gamma + a)/N^alpha + b/D^beta; N active"
        " parameters, granularity G; E = c, A = a, G = g, B = b"
    ),
    forms=(
        Form("E"),
        Form("A", (("alpha", "log_N", -1.0),)),
        Form("G", (("alpha", "log_N", -1.0), ("gamma", "log_granularity", -1.0))),
        Form("B", (("beta", "log_D", -1.0),)),
    ),
    exponents=frozenset({"alpha", "beta", "gamma"}),
    formula=sum_of_terms,
    derivatives=sum_of_terms_derivatives,
    needs=("granularity",),
)
# (E, A, G, B, alpha, beta, gamma) at 64 experts
KRAJEWSKI_64 = (0.47, 18.1, 2.1, 30.8, 0.115, 0.147, 0.58)


def routed(forms: Sequence, data: Mapping[str, Array]):
    """10^(d - a log N - b log E^ + c log N log E^), logarithms of base 10, E^ of the experts."""
    in_N, in_experts, mixed, level, log_start, log_most = forms
    ten = np.log(10.0)
    # 1/E^ = 1/(E - 1 + (1/E_start - 1/E_max)^-1) + 1/E_max
    head_start = _inverse(exp(-1.0 * log_start) - exp(-1.0 * log_most))
    saturated = -1.0 * log(
        _inverse(np.expm1(data["log_n_expert"]) + head_start) + exp(-1.0 * log_most)
    )
    log_N = data["log_N"]
    return exp(
        ten * level - log_N * in_N - saturated * in_experts + (1 / ten) * log_N * saturated * mixed
    )


def _inverse(value):
    return exp(-1.0 * log(value))


CLARK = Law(
    name="clark",
    parameters=("a", "b", "c", "d", "E_start", "E_max"),
    source=(
        "Clark et al. 2022, arXiv:2202.01169: log10 L = d - a log10 N - b log10 E^"
        " + c log10 N log10 E^, 1/E^ = 1/(E - 1 + (1/E_start - 1/E_max)^-1) + 1/E_max; N of the"
        " dense base model, E experts; a and b are minus the paper's"
    ),
    forms=(
        Form(None, (("a", "one", 1.0),)),
        Form(None, (("b", "one", 1.0),)),
        Form(None, (("c", "one", 1.0),)),
        Form(None, (("d", "one", 1.0),)),
        Form("E_start"),
        Form("E_max"),
    ),
    exponents=frozenset({"a", "b", "c", "d"}),
    formula=routed,
    optimum_rule=no_optimum,  # it has no D
    needs=("n_expert",),
)
CLARK_S_BASE = (0.082, 0.108, 0.009, 1.104, 1.847, 314.478)


ABNAR = Law(
    name="abnar",
    parameters=("E", "A", "B", "G", "H", "alpha", "beta", "lam", "delta", "gamma"),
    source=(
        "Abnar et al. 2025, arXiv:2501.12370: e + a/N^alpha + b/D^beta + c/(1-S)^lam"
        " + d/((1-S)^delta N^gamma); N total parameters, S the share of experts that rest;"
        " E = e, A = a, B = b, G = d, H = c"
    ),
    forms=(
        Form("E"),
        Form("A", (("alpha", "log_N", -1.0),)),
        Form("B", (("beta", "log_D", -1.0),)),
        Form("G", (("delta", "log_active_share", -1.0), ("gamma", "log_N", -1.0))),
        Form("H", (("lam", "log_active_share", -1.0),)),
    ),
    exponents=frozenset({"alpha", "beta", "lam", "delta", "gamma"}),
    formula=sum_of_terms,
    derivatives=sum_of_terms_derivatives,
    needs=("active_share",),  # 1 - S
)
ABNAR_PUBLISHED = (0.94, 16612.5, 5455.67, 17.26, 0.4598, 0.5962, 0.3954, -0.1666, 0.1603, 0.1595)

MOE_LAWS = {law.name: law for law in (KRAJEWSKI, CLARK, ABNAR)}
