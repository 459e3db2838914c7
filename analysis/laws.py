"""The scaling laws there are: forms, formula, source. What a law is: laws_types.py."""

from __future__ import annotations

from analysis.laws_formulas import (
    broken_power,
    coupled_terms,
    coupled_terms_derivatives,
    repeated_data,
    sum_of_terms,
    sum_of_terms_derivatives,
)
from analysis.laws_optima import (
    balanced_exponent,
    balanced_terms,
    even_exponent,
    gadre_optimum,
    no_optimum,
    three_terms_optimum,
)
from analysis.laws_types import Form, Law, columns

__all__ = ["LAWS", "Form", "Law", "columns"]

_E = Form("E")
_A = Form("A", (("alpha", "log_N", -1.0),))
_B = Form("B", (("beta", "log_D", -1.0),))
_B_TIED = Form("B", (("alpha", "log_D", -1.0),))
_B_KAPLAN = Form("B", fixed=(("log_D", -1.0),))
_AB = frozenset({"alpha", "beta"})
_SUM = {"formula": sum_of_terms, "derivatives": sum_of_terms_derivatives}
_BALANCED = {"optimum_rule": balanced_terms, "exponent_rule": balanced_exponent}
_COUPLED = {
    "formula": coupled_terms,
    "derivatives": coupled_terms_derivatives,
    **_BALANCED,
}
_C_ONLY = {"optimum_rule": no_optimum, "variables": "C"}

_ALL = (
    Law(
        name="chinchilla",
        parameters=("E", "A", "B", "alpha", "beta"),
        source="Hoffmann et al. 2022, arXiv:2203.15556, eq. 2: E + A/N^alpha + B/D^beta",
        forms=(_E, _A, _B),
        exponents=_AB,
        **_SUM,
        **_BALANCED,
    ),
    Law(
        name="tied",
        parameters=("E", "A", "B", "alpha"),
        source="Muennighoff et al. 2023, arXiv:2305.16264, appendix A: chinchilla, alpha = beta",
        forms=(_E, _A, _B_TIED),
        exponents=frozenset({"alpha"}),
        **_SUM,
        **_BALANCED,
    ),
    Law(
        name="no_E",
        parameters=("A", "B", "alpha", "beta"),
        source="chinchilla without an irreducible loss: A/N^alpha + B/D^beta",
        forms=(_A, _B),
        exponents=_AB,
        **_SUM,
        **_BALANCED,
    ),
    Law(
        name="coupled",
        parameters=("E", "A", "B", "alpha", "beta", "gamma"),
        source="Busbridge et al. 2025, arXiv:2502.08606: E + (A/N^alpha + B/D^beta)^gamma",
        forms=(Form("gamma"), _A, _B, _E),
        exponents=_AB,
        **_COUPLED,
    ),
    Law(
        name="interaction",
        parameters=("E", "A", "B", "G", "alpha", "beta"),
        source="chinchilla with a cross term: E + A/N^alpha + B/D^beta + G N^-alpha D^-beta",
        forms=(
            _E,
            _A,
            _B,
            Form("G", (("alpha", "log_N", -1.0), ("beta", "log_D", -1.0))),
        ),
        exponents=_AB,
        optimum_rule=three_terms_optimum,
        **_SUM,
    ),
    Law(
        name="multiplicative",
        parameters=("E", "A", "alpha", "beta"),
        source="E + A N^-alpha D^-beta; at fixed C it has no interior minimum",
        forms=(_E, Form("A", (("alpha", "log_N", -1.0), ("beta", "log_D", -1.0)))),
        exponents=_AB,
        optimum_rule=no_optimum,
        **_SUM,
    ),
    Law(
        name="kaplan",
        parameters=("A", "B", "alpha", "gamma"),
        source=(
            "Kaplan et al. 2020, arXiv:2001.08361, eq. 1.5, [(N_c/N)^(a_N/a_D) + D_c/D]^a_D, as"
            " (A/N^alpha + B/D)^gamma: N_c = A^(1/alpha), D_c = B, a_N = alpha gamma, a_D = gamma"
        ),
        forms=(Form("gamma"), _A, _B_KAPLAN),
        exponents=frozenset({"alpha"}),
        **_COUPLED,
    ),
    Law(
        name="kaplan_E",
        parameters=("E", "A", "B", "alpha", "gamma"),
        source="Kaplan et al. 2020, eq. 1.5, plus an irreducible loss: E + (A/N^alpha + B/D)^gamma",
        forms=(Form("gamma"), _A, _B_KAPLAN, _E),
        exponents=frozenset({"alpha"}),
        **_COUPLED,
    ),
    Law(
        name="envelope",
        parameters=("E", "A", "gamma"),
        source="Hoffmann et al. 2022, approach 1's form in compute: E + A C^-gamma",
        forms=(_E, Form("A", (("gamma", "log_C", -1.0),))),
        exponents=frozenset({"gamma"}),
        **_SUM,
        **_C_ONLY,
    ),
    Law(
        name="broken",
        parameters=("E", "A", "gamma", "bend", "C_break", "width"),
        source=(
            "Caballero et al. 2023, arXiv:2210.14891, eq. 1 with one break:"
            " E + A C^-gamma (1 + (C/C_break)^(1/width))^(-bend width)"
        ),
        forms=(
            _E,
            Form("A", (("gamma", "log_C", -1.0),)),
            Form("C_break", fixed=(("log_C", 1.0),), sign=-1.0),
            Form("bend"),
            Form("width"),
        ),
        exponents=frozenset({"gamma", "bend"}),
        formula=broken_power,
        **_C_ONLY,
    ),
    Law(
        name="overtraining",
        parameters=("E", "A", "B", "eta"),
        source=(
            "Gadre et al. 2024, arXiv:2403.08540, eq. 4:"
            " E + (A M^eta + B M^-eta) C^-eta, M = D/N, C = 6 N D"
        ),
        forms=(
            _E,
            Form("A", (("eta", "log_6NN", -1.0),)),
            Form("B", (("eta", "log_6DD", -1.0),)),
        ),
        exponents=frozenset({"eta"}),
        optimum_rule=gadre_optimum,
        exponent_rule=even_exponent,
        **_SUM,
    ),
    Law(
        name="data_constrained",
        parameters=("E", "A", "B", "alpha", "beta", "R_D", "R_N"),
        source=(
            "Muennighoff et al. 2023, arXiv:2305.16264, eqs. 5-6: chinchilla in the effective"
            " N' and D' of repeated data; the optimum is that of unlimited unique data"
        ),
        forms=(
            _E,
            _A,
            _B,
            Form(None, (("alpha", "one", 1.0),)),
            Form(None, (("beta", "one", 1.0),)),
            Form("R_D"),
            Form("R_N"),
        ),
        exponents=_AB,
        formula=repeated_data,
        needs=("unique_tokens",),
        **_BALANCED,
    ),
)

LAWS: dict[str, Law] = {law.name: law for law in _ALL}
