"""What the laws compute from their forms, with first and second derivatives.

Every formula takes the list of form values (arrays or jets that broadcast together) and the raw
columns, and returns the loss. Derivatives are with respect to the forms, elementwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from analysis.laws_jets import Jet, differentiate, exp, log, minimum, softplus

Array = np.ndarray
Columns = Mapping[str, Array]
Formula = Callable[[Sequence, Columns], Jet | Array]
# (forms, columns) -> loss, [d loss / d form k], {(k, l), k <= l: second derivative}; absent is zero
Derivatives = Callable[
    [Sequence[Array], Columns], tuple[Array, list[Array], dict[tuple[int, int], Array]]
]


def differentiated(formula: Formula) -> Derivatives:
    """Give a formula its derivatives by forward differentiation."""
    return lambda forms, data: differentiate(lambda jets: formula(jets, data), forms)


def sum_of_terms(forms: Sequence, data: Columns) -> Array:
    """Sum of exp(form): every law that adds powers of N, D and C."""
    return sum((exp(form) for form in forms[1:]), exp(forms[0]))


def sum_of_terms_derivatives(
    forms: Sequence[Array], data: Columns
) -> tuple[Array, list[Array], dict[tuple[int, int], Array]]:
    """Hand-written for speed: each term is its own first and second derivative."""
    terms = [np.exp(form) for form in forms]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total, terms, {(k, k): term for k, term in enumerate(terms)}


def coupled_terms(forms: Sequence, data: Columns) -> Jet | Array:
    """(exp s_A + exp s_B)^gamma [+ E] from forms (log gamma, s_A, s_B[, log E])."""
    log_gamma, s_A, s_B, *irreducible = forms
    # log(e^A + e^B) = s_B + softplus(s_A - s_B) neither overflows nor loses the smaller term
    joint = exp(exp(log_gamma) * (s_B + softplus(s_A - s_B)))
    return joint + exp(irreducible[0]) if irreducible else joint


def coupled_terms_derivatives(
    forms: Sequence[Array], data: Columns
) -> tuple[Array, list[Array], dict[tuple[int, int], Array]]:
    """Hand-written for speed, with p the share of exp s_A in the sum: d log J = gamma (p ds_A + ..)."""
    log_gamma, s_A, s_B, *irreducible = forms
    gap = s_A - s_B
    p = 0.5 * (1.0 + np.tanh(0.5 * gap))
    gamma = np.exp(log_gamma)
    power = gamma * (s_B + np.logaddexp(0.0, gap))
    joint = np.exp(power)
    scaled = joint * gamma
    in_A = scaled * p
    in_B = scaled - in_A
    mixed = in_A * (1.0 - p)
    raised = power + 1.0
    first = [joint * power, in_A, in_B]
    second = {
        (0, 0): first[0] * raised,
        (0, 1): in_A * raised,
        (0, 2): in_B * raised,
        (1, 1): in_A * (gamma * p) + mixed,
        (1, 2): (gamma - 1.0) * mixed,
        (2, 2): in_B * (gamma * (1.0 - p)) + mixed,
    }
    if not irreducible:
        return joint, first, second
    E = np.exp(irreducible[0])
    return joint + E, [*first, E], second | {(3, 3): E}


def broken_power(forms: Sequence, data: Columns) -> Jet | Array:
    """E + A C^-gamma (1 + (C/C_break)^(1/width))^(-bend width), Caballero et al. 2023, eq. 1."""
    log_E, s_A, beyond_break, bend, log_width = forms
    width = exp(log_width)
    return exp(log_E) + exp(s_A - bend * width * softplus(beyond_break * exp(-log_width)))


def repeated_data(forms: Sequence, data: Columns) -> Jet | Array:
    """Chinchilla in effective parameters and tokens, Muennighoff et al. 2023, eqs. 5-6.

    U_D = min(D, unique_tokens); U_N = min(N, N_opt of the budget whose D_opt is U_D);
    D' = U_D (1 + R_D (1 - exp(-(D/U_D - 1)/R_D))) and N' likewise.
    """
    log_E, s_A, s_B, alpha, beta, log_R_D, log_R_N = forms
    log_N, log_D = data["log_N"], data["log_D"]
    log_U_D = np.minimum(log_D, data["log_unique_tokens"])
    # log A and log B back from their forms; G = (alpha A / (beta B))^(1/(alpha+beta))
    log_A, log_B = s_A + alpha * log_N, s_B + beta * log_D
    log_G = (log(alpha) + log_A - log(beta) - log_B) / (alpha + beta)
    # D_opt = U_D at C/6 = (G U_D)^(1/b), so that N_opt = G (G U_D)^(a/b), with a/b = beta/alpha
    log_U_N = minimum(log_G + (beta / alpha) * (log_G + log_U_D), log_N)
    gain_N = _effective_gain(log_N - log_U_N, log_R_N)
    gain_D = _effective_gain(log_D - log_U_D, log_R_D)
    lost_N = gain_N + log_U_N - log_N
    lost_D = gain_D + (log_U_D - log_D)
    return exp(log_E) + exp(s_A - alpha * lost_N) + exp(s_B - beta * lost_D)


def _effective_gain(log_repeats: Jet | Array, log_R: Jet | Array) -> Jet | Array:
    """log(effective / unique) after exp(log_repeats) passes with half-life constant R."""
    R = exp(log_R)
    passes = exp(minimum(log_repeats, 30.0)) - 1.0  # e^30 passes: far beyond any, and finite
    return log(1.0 + R - R * exp(-passes * exp(-log_R)))
