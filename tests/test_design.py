"""Designs: the form that holds the others, what cells tell of it, and the choice of the next ones."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import TRUTHS, planted_sweep

from analysis.design import LEAST_AT_TOP, Candidates, Situation, choose, covariance_of
from analysis.design_form import FREE, free_directions, superset_of
from analysis.design_information import (
    Noise,
    expected,
    in_common,
    information,
    noise_of,
    variance,
)
from analysis.design_prior import (
    PUBLISHED,
    Prior,
    PriorError,
    _jacobian,
    load_prior,
    prior_from_fits,
)
from analysis.engine import fit_law
from analysis.fit import fit
from analysis.laws import LAWS

HELD = [law for law in FREE if law != "superset"]
N = np.geomspace(1e8, 1e10, 7)
D = np.geomspace(8e9, 2e11, 7)[::-1]


def form_of(law="chinchilla", theta=None, at=(1e9, 2e10)):
    parameters = dict(zip(LAWS[law].parameters, theta or TRUTHS[law], strict=True))
    return superset_of(law, parameters, *at)


def grid(counts=(7, 7, 7, 7, 7), window=4.0):
    """N, D, C of an isoFLOP grid from 1e18 to 1e20 around D/N = 20."""
    budgets = 10 ** np.linspace(18, 20, len(counts))
    sides = [np.geomspace(1 / window, window, k) for k in counts]
    sizes = np.concatenate([np.sqrt(C / 120) * s for C, s in zip(budgets, sides, strict=True)])
    C = np.repeat(budgets, counts)
    return sizes, C / 6 / sizes, C


@pytest.mark.parametrize("law", HELD)
def test_the_superset_holds_each_law_and_its_optimum(law):
    form, theta = form_of(law), np.array(TRUTHS[law])
    assert form.loss(N, D) == pytest.approx(LAWS[law].loss(theta, N, D), rel=1e-12)
    C = np.array([1e19, 1e21])
    assert form.N_opt(C) == pytest.approx(LAWS[law].optimum(theta, C)[0], rel=1e-5)


@pytest.mark.parametrize("law", HELD)
def test_gradients_are_those_of_the_law_in_its_own_constants(law):
    """Constants moved one at a time; each moves the superset along the directions of the law."""
    theta, names = np.array(TRUTHS[law]), LAWS[law].parameters
    form, C = form_of(law), 1e21
    P, at_optimum = free_directions(law), form.gradients_at_optimum(C)

    J = _jacobian(law, dict(zip(names, theta, strict=True)), *form.middle)
    for i in range(len(names)):
        step = np.zeros(len(names))
        step[i] = 1e-5 * theta[i]
        high, low = LAWS[law].loss(theta + step, N, D), LAWS[law].loss(theta - step, N, D)
        slope = np.log(high / low) / 2e-5
        if names[i] not in ("A", "B", "alpha", "beta") or law != "interaction":
            # cross is counted in G alone, see _jacobian
            assert form.gradient(N, D) @ P @ J[:, i] * theta[i] == pytest.approx(slope, abs=1e-6)
            N_high, N_low = (LAWS[law].optimum(theta + s, C)[0] for s in (step, -step))
            moved = at_optimum["N_opt"] @ P @ J[:, i] * theta[i]
            assert moved == pytest.approx(np.log(N_high / N_low) / 2e-5, rel=2e-3, abs=2e-3)


@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_predicted_errors_are_the_errors_of_fits(rho):
    """Root mean square errors of 150 fits to planted sweeps; their own Monte-Carlo error is 6%.

    Scatter of cells of about one size has correlation rho, as on a trunk.
    """
    law, theta, noise, C = "chinchilla", TRUTHS["chinchilla"], 0.004, 1e21
    sizes, tokens, budgets = grid()
    form = form_of(at=(float(np.exp(np.log(sizes).mean())), float(np.exp(np.log(tokens).mean()))))
    told = information(form, Noise(noise), sizes, tokens, budgets)
    trunk = np.unique(np.log2(sizes).round(), return_inverse=True)[1]
    shared = in_common(form, Noise(noise), sizes, tokens, budgets, trunk, rho)
    gradients, rng = form.gradients_at_optimum(C), np.random.default_rng(0)
    true = LAWS[law].loss(np.array(theta), sizes, tokens)
    errors = {"N_opt": [], "loss": []}
    for _ in range(150):
        own, common = rng.standard_normal(len(true)), rng.standard_normal(trunk.max() + 1)[trunk]
        loss = true * np.exp(noise * (np.sqrt(1 - rho) * own + np.sqrt(rho) * common))
        found = fit_law(law, sizes, tokens, loss, estimator="ls")
        N_opt, D_opt = LAWS[law].optimum(found.theta, C)
        errors["N_opt"].append(np.log(N_opt / form.N_opt(C)))
        best = form.loss(form.N_opt(C), C / 6 / form.N_opt(C))
        errors["loss"].append(np.log(LAWS[law].loss(found.theta, N_opt, D_opt) / best))
    for quantity, seen in errors.items():
        sd = expected(form, told, law, gradients[quantity], 0.9, shared).sd
        alone = variance(form, told, law, gradients[quantity])
        assert np.std(seen) == pytest.approx(sd, rel=0.2), quantity
        assert expected(form, told, law, gradients[quantity], 0.9).sd ** 2 == pytest.approx(alone)
        if rho and quantity == "N_opt":
            assert sd**2 > 1.3 * alone  # or the test could not tell


def test_a_wrong_form_errs_by_what_the_coverage_counts():
    """The plain law on noise-free losses of a slightly coupled truth, against K d of `expected`."""
    sizes, tokens, _ = grid()
    C, gamma = 1e21, 1.02
    at = (float(np.exp(np.log(sizes).mean())), float(np.exp(np.log(tokens).mean())))
    form = form_of(at=at)
    truth = (*TRUTHS["chinchilla"], gamma)
    loss = LAWS["coupled"].loss(np.array(truth), sizes, tokens)
    found = fit_law("chinchilla", sizes, tokens, loss, estimator="ls")
    told = information(form, Noise(0.002), sizes, tokens, 6 * sizes * tokens)
    P, d = free_directions("chinchilla"), np.zeros(7)
    d[5] = np.log(gamma)
    K = np.linalg.solve(P.T @ told @ P, P.T @ told)
    for quantity, c in form.gradients_at_optimum(C).items():
        N_fit, D_fit = LAWS["chinchilla"].optimum(found.theta, C)
        N_true, D_true = LAWS["coupled"].optimum(np.array(truth), C)
        seen = np.log(N_fit / N_true)
        if quantity == "loss":
            seen = np.log(LAWS["chinchilla"].loss(found.theta, N_fit, D_fit))
            seen -= np.log(LAWS["coupled"].loss(np.array(truth), N_true, D_true))
        assert c @ (P @ K @ d - d) == pytest.approx(seen, rel=0.1)


def test_a_law_covers_what_it_should_where_it_is_the_truth_and_less_where_it_is_not():
    sizes, tokens, C = grid()
    form = form_of()
    gradient = form.gradients_at_optimum(1e21)["loss"]
    cover = {}
    for noise in (0.002, 0.05):
        told = information(form, Noise(noise), sizes, tokens, C)
        assert expected(form, told, "superset", gradient, 0.9).coverage == pytest.approx(0.9)
        cover[noise] = expected(form, told, "chinchilla", gradient, 0.9).coverage
    assert cover[0.002] < cover[0.05] < 0.9


def test_tapering_saves_compute_at_nearly_equal_error():
    """15, 12, 9, 6, 4 sizes: .72 of the FLOPs of 7 x 5, errors within 5%."""
    form = form_of(theta=(1.69, 406.4, 410.7, 0.34, 0.28))
    gradients, sd, price = form.gradients_at_optimum(1e21), {}, {}
    for counts in ((7,) * 5, (15, 12, 9, 6, 4)):
        cells = grid(counts)
        told = information(form, Noise(0.002), *cells)
        price[counts] = cells[2].sum()
        sd[counts] = [expected(form, told, "chinchilla", c, 0.9).sd for c in gradients.values()]
    uniform, tapered = sd
    assert price[tapered] / price[uniform] == pytest.approx(0.72, abs=0.005)
    assert np.array(sd[tapered]) == pytest.approx(np.array(sd[uniform]), rel=0.05)


def test_noise_stays_as_at_the_ends_of_the_budgets_that_were_run():
    noise = noise_of(
        {"scale": 0.01, "slope": -0.5, "log_C": np.log(1e19), "dof": 4.0}, (1e18, 1e20)
    )
    precision = noise.precision(np.array([1e10, 1e18, 1e19, 1e20, 1e25]))
    assert precision[0] == precision[1] < precision[2] < precision[3] == precision[4]
    assert precision[2] == pytest.approx(5 / 7 / 0.01**2)
    assert noise_of({"rms": 0.02}, (1e18,)).precision(1e20) == pytest.approx(2500)
    for unknown in ({}, {"rms": float("nan")}, {"rms": 0.0}):
        with pytest.raises(ValueError, match="noise is unknown"):
            noise_of(unknown, (1e18,))


# the choice


def situation(counts=(5, 5, 5), quantities=("N_opt", "loss"), target=1e21):
    budgets = 10 ** np.linspace(18, 20, 5)[: len(counts)]
    sizes = np.concatenate([np.sqrt(C / 120) * np.geomspace(0.25, 4, k)
                            for C, k in zip(budgets, counts, strict=True)])  # fmt: skip
    C = np.repeat(budgets, counts)
    form, noise = form_of(), Noise(0.004)
    gradients = form.gradients_at_optimum(target)
    told = information(form, noise, sizes, C / 6 / sizes, C)
    has = {float(b): frozenset(np.round(sizes[b == C]).astype(int)) for b in budgets}
    wanted = np.stack([gradients[q] for q in quantities], axis=1)
    return Situation(form, noise, covariance_of(form, told), wanted, has), told


def pool(n=13):
    budgets = 10 ** np.linspace(18, 20, 5)
    C = np.repeat(budgets, n)
    sizes = np.concatenate([np.sqrt(b / 120) * np.geomspace(0.25, 4, n) for b in budgets])
    return Candidates(sizes, C / 6 / sizes, C, C, np.round(sizes).astype(int), C)


def test_the_first_cell_is_the_best_of_all_by_brute_force():
    now, told = situation()
    candidates = pool()
    found = choose(
        now, candidates, 1e19
    )  # one cell at the dearest budget there is, or cheaper ones
    left = []
    for i in range(len(candidates)):
        one = slice(i, i + 1)
        more = information(now.form, now.noise, candidates.N[one], candidates.D[one], candidates.C[one])  # fmt: skip
        sd = now.sd(covariance_of(now.form, told + more))
        allowed = candidates.price[i] <= 1e19 * (1 + 1e-9)
        left.append(np.prod(sd) if allowed else np.inf)
    assert np.prod(now.sd(found.covariance)) <= min(left) * (1 + 1e-9)


@settings(max_examples=40)
@given(
    st.floats(17, 21.5),
    st.sampled_from([("N_opt",), ("loss",), ("N_opt", "loss")]),
    st.floats(0, 0.5),
)
def test_a_design_keeps_to_its_funds_and_its_promise(log_funds, quantities, share):
    now, told = situation(quantities=quantities)
    candidates, funds = pool(), 10**log_funds
    found = choose(now, candidates, funds, lambda top: share * funds)
    if found is None:
        assert funds * (1 - share) < candidates.price.min()
        return
    chosen = [step.index for step in found.steps]
    assert len(set(chosen)) == len(chosen)
    assert found.price == pytest.approx(candidates.price[chosen].sum())
    assert found.price <= funds * (1 - share) * (1 + 1e-9)
    more = information(now.form, now.noise, candidates.N[chosen], candidates.D[chosen], candidates.C[chosen])  # fmt: skip
    expected_covariance = covariance_of(now.form, told + more)
    assert now.sd(found.covariance) == pytest.approx(now.sd(expected_covariance), rel=1e-6)
    assert found.steps[-1].sd_after == pytest.approx(now.sd(found.covariance))
    for first, then in zip(found.steps, found.steps[1:], strict=False):
        assert then.sd_before == first.sd_after
        assert all(
            a <= b * (1 + 1e-12) for a, b in zip(first.sd_after, first.sd_before, strict=True)
        )
    dearest = max(*candidates.budget[chosen], max(now.has))
    at_top = {int(s) for s in candidates.size[chosen][candidates.budget[chosen] == dearest]}
    assert len(at_top | now.has.get(float(dearest), frozenset())) >= LEAST_AT_TOP


def test_more_money_never_tells_less():
    now, _ = situation()
    left = [np.prod(now.sd(choose(now, pool(), f).covariance) / now.sd(now.covariance))
            for f in (1e18, 1e19, 1e20, 1e21)]  # fmt: skip
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.1


def test_a_design_for_N_opt_alone_tells_more_of_it_than_one_for_both_and_less_of_the_loss():
    gradients = form_of().gradients_at_optimum(1e21)
    sd = {}
    for quantities in (("N_opt",), ("N_opt", "loss")):
        now, _ = situation(quantities=quantities)
        V = choose(now, pool(41), 1.5e20).covariance
        sd[quantities] = {q: np.sqrt(c @ V @ c) for q, c in gradients.items()}
    alone, both = sd.values()
    assert alone["N_opt"] < both["N_opt"]
    assert alone["loss"] > both["loss"]


def test_the_cheapest_design_that_is_enough_is_taken():
    now, _ = situation(quantities=("N_opt",))
    goal = 0.8 * float(now.sd(now.covariance)[0])
    found = choose(now, pool(), 1e21, enough=lambda V, top: now.sd(V)[0] <= goal)
    assert found.enough
    assert now.sd(found.covariance)[0] <= goal
    assert found.price < choose(now, pool(), 1e21).price
    shorter = [step.sd_after[0] for step in found.steps[:-1] if step.role == "gain"]
    assert all(sd > goal for sd in shorter)


# priors


def test_published_laws_have_an_optimum_and_a_source():
    for name, prior in PUBLISHED.items():
        assert load_prior(name) is prior
        assert 1 < 1e20 / 6 / prior.N_opt(1e20) ** 2 < 500
        assert prior.spread(1e20) == 0
        assert "arXiv" in prior.source or "LOG.md" in prior.source
    assert load_prior("epoch", 0.02).noise.sd == 0.02


@pytest.mark.parametrize("law", ["chinchilla", "tied", "no_E", "coupled"])
def test_a_covariance_says_the_same_of_N_opt_in_either_coordinates(law):
    """That of the public constants, by finite differences, and that of the superset."""
    sweep = planted_sweep(law, noise=0.003, sizes=9, window=6.0)
    found = fit_law(law, sweep.N, sweep.D, sweep.loss)
    parameters = dict(zip(found.law.parameters, map(float, found.theta), strict=True))
    prior = Prior("a fit", law, parameters, Noise(0.003), "planted", (1e17, 1e21), found.covariance)
    C, slopes = 1e22, []
    for i, value in enumerate(found.theta):
        step = np.zeros(len(found.theta))
        step[i] = 1e-6 * value
        high, low = (found.law.optimum(found.theta + s, C)[0] for s in (step, -step))
        slopes.append(np.log(high / low) / (2e-6 * value))
    by_hand = np.sqrt(np.array(slopes) @ found.covariance @ np.array(slopes))
    assert prior.spread(C) == pytest.approx(by_hand, rel=1e-3)
    form = prior.form(1e9, 2e10)
    told = prior.information_at(form)
    again = variance(form, told, law, form.gradients_at_optimum(C)["N_opt"])
    assert np.sqrt(again) == pytest.approx(by_hand, rel=0.05)  # the weak prior is in it


def test_what_a_covariance_does_not_speak_of_is_left_to_the_prior():
    covariance = np.diag([0.01, 4.0, 4.0, 1e-4, 0.0])
    p = dict(zip(LAWS["chinchilla"].parameters, TRUTHS["chinchilla"], strict=True))
    prior = Prior("bound", "chinchilla", p, Noise(0.01), "", (1e18,), covariance)
    form = prior.form(1.0, 1.0)  # there the terms are A and B themselves
    told = prior.information_at(form)
    assert told[4, 4] == 0
    assert told[3, 3] == pytest.approx(1e4)
    assert not told[5:].any()


def test_a_fit_is_read_as_a_prior(tmp_path):
    sweep = planted_sweep("chinchilla", noise=0.003)
    fits = fit(pd.DataFrame({"N": sweep.N, "D": sweep.D, "loss": sweep.loss}), draws=50)
    prior = prior_from_fits(fits.write(tmp_path / "fits.json"))
    assert prior.law == "chinchilla"
    assert prior.N_opt(1e22) == pytest.approx(fits.forecast[0].N, rel=1e-6)
    assert prior.spread(1e22) > 0


def test_a_prior_that_can_not_be_used_says_why(tmp_path):
    for name in ("gpt", "none.json", ""):
        with pytest.raises(PriorError, match=r"is no law|does not exist"):
            load_prior(name)
    sweep = planted_sweep("chinchilla", noise=0.003)
    frame = pd.DataFrame({"N": sweep.N, "D": sweep.D, "loss": sweep.loss})
    content = fit(frame, draws=20).to_json()
    path = tmp_path / "fits.json"

    def written(change) -> PriorError:
        copy = json.loads(json.dumps(content))
        change(copy)
        path.write_text(json.dumps(copy))
        with pytest.raises(PriorError) as e:
            prior_from_fits(path)
        return str(e.value)

    def no_noise(copy):
        for row in copy["laws"]:
            row["noise"] = {}

    def no_constants(copy):
        for row in copy["laws"]:
            row["parameters"] = dict.fromkeys(row["parameters"])

    def no_laws(copy):
        copy["laws"] = [{"status": "skipped", "reason": "one fit per value"}]

    assert "chinchilla: its noise is unknown" in written(no_noise)
    assert "chinchilla has no finite constants" in written(no_constants)
    assert "it has no law of chinchilla" in written(no_laws)
    copy = json.loads(json.dumps(content))
    copy["laws"][0]["noise"] = {}  # the headline's; another law is there
    path.write_text(json.dumps(copy))
    assert prior_from_fits(path).law in FREE
    assert prior_from_fits(path).law != "chinchilla"
