"""fits.json: every key of the contract, whole or not at all, and no number that is not one."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.fit import fit
from analysis.fits_file import FitsError, plain_json, read_fits

KEYS = {
    "points": {"n", "path", "sha256", "flop_rule", "N_convention", "excluded"},
    "approach1": {"N_opt", "D_opt"},
    "approach2": {"N_opt", "D_opt", "minima"},
    "approach3": {
        "law", "estimator", "delta", "E", "A", "B", "alpha", "beta", "a", "b", "objective",
        "gradient_norm", "status", "n", "ci", "starts",
    },
}  # fmt: skip
ENTRIES = {
    "laws": {
        "name", "estimator", "parameters", "covariance", "noise", "objective", "gradient_norm",
        "aicc", "weight", "status",
    },
    "leverage": {"row", "name", "change_in_a", "change_in_N", "change_in_loss"},
    "holdout": {
        "budget", "n", "n_eff", "law", "predicted", "observed", "interval", "z", "mean_error",
        "inside_interval", "min_loss_error", "min_loss_interval", "status", "reason",
    },
    "forecast": {
        "law", "C", "N", "D", "loss", "loss_interval", "N_interval", "D_interval", "N_range",
        "extrapolation", "variance", "plain", "flop_rule", "N_convention", "recipe", "status",
        "reason",
    },
}  # fmt: skip


def sweep(budgets: int = 4, noise: float = 0.003) -> pd.DataFrame:
    C = np.repeat(1e17 * 8.0 ** np.arange(budgets), 6)
    N = np.tile(np.geomspace(0.3, 3, 6), budgets) * 0.09 * np.sqrt(C)
    D = C / (6 * N)
    loss = 1.7 + 400 / N**0.34 + 800 / D**0.31
    rng = np.random.default_rng(0)
    return pd.DataFrame({"N": N, "D": D, "loss": loss * np.exp(rng.normal(0, noise, len(C)))})


@pytest.fixture(scope="module")
def fits():
    return fit(sweep(), draws=200)


def test_every_key_of_the_contract_is_there(fits):
    content = fits.to_json()
    assert {"schema_version", "level", "provenance", "refits", "conflicts"} <= set(content)
    for part, keys in KEYS.items():
        assert keys <= set(content[part]), part
    for part, keys in ENTRIES.items():
        assert content[part], part
        for entry in content[part]:
            assert keys <= set(entry), part
    assert set(content["approach2"]["N_opt"]) == {"coefficient", "exponent", "ci"}
    assert {"budget", "N", "D", "loss", "status", "reason", "predicted_bias"} <= set(
        content["approach2"]["minima"][0]
    )
    assert {"E", "A", "B", "alpha", "beta", "a"} <= set(content["approach3"]["ci"])
    assert set(content["approach3"]["starts"]) == {"n", "at_optimum"}
    f = content["forecast"][0]
    assert set(f["N_range"]) == {"p1", "p5"}
    assert set(f["variance"]) == {"sampling", "form", "discrepancy"}
    assert set(f["extrapolation"]) == {"C", "N", "D", "tokens_per_param", "validated_C"}
    assert {"loss", "N", "D", "loss_interval", "N_interval", "D_interval"} <= set(f["plain"])


def test_the_file_is_what_was_fitted_to_the_last_bit(fits, tmp_path):
    path = fits.write(tmp_path / "new folder" / "fits.json")
    assert read_fits(path) == fits.to_json()
    assert read_fits(path)["approach3"]["alpha"] == fits.approach3.alpha
    assert [p.name for p in path.parent.iterdir()] == ["fits.json"]


def test_even_a_hopeless_sweep_has_every_part(tmp_path):
    """Three runs at one budget: nothing can be fitted, every part says why."""
    few = sweep(1).iloc[:3]
    content = read_fits(fit(few, draws=50).write(tmp_path / "fits.json"))
    for part in KEYS:
        assert part in content
    for part in ("laws", "refits", "leverage", "holdout", "forecast"):
        assert content[part], part
        for entry in content[part]:
            assert entry["status"] != "ok"
            assert entry["reason"]
    assert content["approach2"]["minima"][0]["N"] is None
    assert content["approach3"]["status"] == "too_few"
    assert content["approach3"]["E"] is None


def test_unknown_numbers_are_null_and_never_tokens(tmp_path):
    values = {
        "nan": np.nan, "inf": np.inf, "pair": (np.nan, np.nan), "half": (1.0, np.nan),
        "array": np.array([1.0, -np.inf]), "f32": np.float32(0.5), "int": np.int64(3),
        "flag": np.bool_(True),
    }  # fmt: skip
    plain = plain_json(values)
    assert plain == {
        "nan": None, "inf": None, "pair": None, "half": [1.0, None], "array": [1.0, None],
        "f32": 0.5, "int": 3, "flag": True,
    }  # fmt: skip
    json.dumps(plain, allow_nan=False)


def test_a_file_that_is_not_ours_is_refused_in_a_line(fits, tmp_path):
    def refused(text: str | bytes, match: str) -> None:
        path = tmp_path / "fits.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(FitsError, match=match):
            read_fits(path)

    with pytest.raises(FitsError, match="does not exist"):
        read_fits(tmp_path / "none.json")
    with pytest.raises(FitsError, match="can't be read"):
        read_fits(tmp_path)
    refused("", "can't be read as JSON")
    refused(b"\xff\xfe", "can't be read as JSON")
    refused("[]", "no schema_version")
    whole = fits.to_json()
    refused(json.dumps(whole | {"schema_version": 99}), "schema 99, this code reads 1")
    refused(json.dumps({k: v for k, v in whole.items() if k != "laws"}), "lacks laws")


def test_a_failed_write_leaves_the_old_file(fits, tmp_path):
    path = fits.write(tmp_path / "fits.json")
    before = path.read_bytes()
    fits.provenance["bad"] = object()
    try:
        with pytest.raises(TypeError):
            fits.write(path)
    finally:
        del fits.provenance["bad"]
    assert path.read_bytes() == before
