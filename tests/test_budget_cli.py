"""isoflop budget: one command for each question, its answer in text and JSON, and what is refused."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_cli import environment

from analysis.budget_laws import LAWS
from models.boards import BOARDS
from sweep.budget_help import EXAMPLES
from sweep.budget_questions import READS
from sweep.verbs import VERBS

FITS = Path(__file__).resolve().parents[1] / "results" / "reference" / "demo" / "fits.json"
A100 = "budget.hardware=a100 budget.mfu=.5"


@pytest.fixture
def ask(command):
    """Return a function that asks in JSON and returns the answer, whole."""

    def ask(words: str) -> dict:
        code, out, err = command("budget", *shlex.split(words), "budget.format=json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return ask


@pytest.fixture
def refused(command, tmp_path):
    """Return a function that asks what must be refused, and returns the line that says why."""

    def refused(words: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        code, out, err = command("budget", *shlex.split(words))
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert sorted(tmp_path.rglob("*")) == before
        return err

    return refused


# the slips of planning documents (docs/slips.md), each by the command that gives it


@pytest.mark.parametrize(
    ("words", "key", "right"),
    [
        ("budget.N=7e9 budget.D=1e12 budget.law=hoffmann", "loss", pytest.approx(2.05, abs=5e-3)),
        ("budget.N=7e10 budget.D=7e10 budget.C=1e22", "share_of_C", pytest.approx(2.94)),
        ("budget.ask=optimal budget.C=1.2e22 budget.tokens_per_param=20", "N", pytest.approx(1e10)),
        (f"budget.ask=optimal budget.gpu_hours=1 {A100}", "C", pytest.approx(5.616e17)),
        (f"budget.ask=optimal budget.gpu_hours=1000 budget.tokens_per_param=20 {A100}", "N",
         pytest.approx(2.163e9, rel=1e-3)),
        (f"budget.ask=optimal budget.gpu_hours=1000 budget.tokens_per_param=20 {A100}", "D",
         pytest.approx(43.27e9, rel=1e-3)),
        (f"budget.N=300e6 budget.D=6e9 {A100}", "gpu_hours", pytest.approx(1000 / 52, rel=1e-3)),
        (f"budget.N=175e9 budget.D=300e9 {A100}", "C", pytest.approx(3.15e23)),
        (f"budget.N=175e9 budget.D=300e9 {A100}", "gpu_hours", pytest.approx(561_000, abs=500)),
        (f"budget.N=65e9 budget.D=1.4e12 {A100}", "gpu_hours", pytest.approx(972_000, abs=500)),
        ("budget.N=1.3e9 budget.D=40e9 budget.C=3e21", "C", pytest.approx(3.12e20)),
        ("budget.N=1.3e9 budget.D=40e9 budget.C=3e21", "share_of_C", pytest.approx(0.104)),
        (f"budget.N=7e9 budget.D=1e12 budget.price=2 {A100}", "gpu_hours", pytest.approx(74_786, abs=.5)),
        (f"budget.N=7e9 budget.D=1e12 budget.price=2 {A100}", "money", pytest.approx(149_573, abs=.5)),
        (f"budget.N=7e9 budget.D=1e12 budget.gpus=64 {A100}", "days", pytest.approx(48.7, abs=.05)),
        (f"budget.N=7e9 budget.D=1e12 budget.gpus=256 {A100}", "days", pytest.approx(12.2, abs=.05)),
        (f"budget.N=70e9 budget.D=15e12 budget.price=2 {A100}", "gpu_hours",
         pytest.approx(11_217_949, abs=.5)),
        (f"budget.N=70e9 budget.D=15e12 budget.price=2 {A100}", "money",
         pytest.approx(22_435_897, abs=.5)),
    ],
)  # fmt: skip
def test_figures_that_planning_documents_get_wrong(ask, words, key, right):
    assert ask(words)["answer"][key] == right


def test_exponents_of_kaplan(ask):
    rows = ask("budget.ask=laws")["tables"]["kaplan"]
    assert [r["exponent"] for r in rows] == [0.076, 0.095, 0.050]


def test_a_stated_C_that_N_and_D_do_not_spend_is_flagged_first(ask):
    flags = ask("budget.N=7e10 budget.D=7e10 budget.C=1e22")["flags"]
    assert flags[0].startswith("N and D spend 2.94 of the stated C")
    flags = ask("budget.N=7e10 budget.D=7e10 budget.C=2.94e22")["flags"]
    assert not any("spend" in flag for flag in flags)


def test_published_inference_aware_figures(ask):
    words = "budget.ask=inference budget.N=7e9 budget.law=hoffmann_unrounded"
    answer = ask(f"{words} budget.serve_tokens=1e11")["answer"]
    assert answer["N"] == pytest.approx(6.055e9, rel=2e-4)
    assert answer["D_ratio"] == pytest.approx(1.164, abs=5e-4)
    assert answer["cost_ratio"] == pytest.approx(0.99251, abs=5e-6)
    assert abs(answer["condition"]) < 1e-6
    assert ask(f"{words} budget.queries=1e8 budget.tokens_per_query=1e3")["answer"] == answer


# every question


def test_help_has_an_example_for_every_question():
    assert list(EXAMPLES) == list(READS)


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_examples_of_help_work_and_so_do_the_next_steps(command, ask, name):
    words = EXAMPLES[name][1]
    code, text, err = command("budget", *shlex.split(words))
    assert (code, err) == (0, "")
    assert max(map(len, text.splitlines())) < 260
    answer = ask(words)
    assert answer["ask"] == name
    assert answer["answer"] or answer["tables"]
    if answer["law"]:
        assert f"Law: {answer['law']['name']}" in text
        assert answer["law"]["source"] in text
        assert answer["law"]["regime"] in text
    program, verb, *following = shlex.split(answer["next"][answer["next"].index("isoflop") :])
    assert (program, verb) == ("isoflop", "budget")
    assert command(verb, *following)[0] == 0


@pytest.mark.parametrize("name", list(READS))
def test_keys_of_a_question_are_keys(name):
    from conf.schema import BudgetConf

    assert set(READS[name]) <= set(vars(BudgetConf()))


def test_every_key_is_read_by_a_question():
    from conf.schema import BudgetConf

    read = {key for keys in READS.values() for key in keys}
    assert set(vars(BudgetConf())) - read == {"ask", "format"}


def test_money_is_blank_until_a_price_is_set(ask, command):
    words = f"budget.N=7e9 budget.D=1e12 {A100}"
    answer = ask(words)
    assert answer["answer"]["money"] is None
    assert "budget.price=" in answer["notes"]["money"]
    assert "$" not in command("budget", *words.split())[1].split("Law:")[0].replace("dollars", "")
    assert ask(f"{words} budget.price=0")["answer"]["money"] == 0


def test_optimum_of_money_is_that_of_its_hours_and_flops(ask):
    by_money = ask(f"budget.ask=optimal budget.money=2000 budget.price=2 {A100}")["answer"]
    by_hours = ask(f"budget.ask=optimal budget.gpu_hours=1000 budget.price=2 {A100}")["answer"]
    by_C = ask(f"budget.ask=optimal budget.C=5.616e20 budget.price=2 {A100}")["answer"]
    assert by_money == pytest.approx(by_hours)
    assert by_C == pytest.approx(by_hours)
    assert by_money["money"] == pytest.approx(2000)


def test_money_form_takes_prices_and_utilisations_apart(ask):
    words = "budget.ask=inference budget.N=7e9 budget.serve_tokens=1e12"
    prices = f"{A100} budget.price=2 budget.serve_price=2"
    flops = ask(words)["answer"]
    equal = ask(f"{words} {prices} budget.serve_mfu=.5")["answer"]
    assert equal["N"] == pytest.approx(flops["N"])
    assert equal["cost"] == pytest.approx(flops["cost"] / 5.616e17 * 2)
    slower = ask(f"{words} {prices} budget.serve_mfu=.05")["answer"]
    as_if = ask("budget.ask=inference budget.N=7e9 budget.serve_tokens=1e13")["answer"]
    assert slower["N"] == pytest.approx(as_if["N"])


def test_over_training_says_overhead_break_even_and_where_the_law_ends(ask):
    curve = ask("budget.ask=overtrain budget.N=7e9")["tables"]["curve"]
    assert curve[0]["overhead"] == pytest.approx(1)
    overheads = [row["overhead"] for row in curve]
    assert overheads == sorted(overheads)
    words = [row["extrapolation"] for row in curve]
    assert words[0] == "within"
    assert words[-1] == "beyond"
    beyond = [row["tokens_per_param"] > 341 for row in curve]
    assert beyond == [word == "beyond" for word in words]
    (row,) = ask("budget.ask=overtrain budget.N=7e9 budget.sizes=[1e8]")["tables"]["curve"]
    assert (row["extrapolation"], row["D"], row["break_even"]) == ("unreachable", None, None)


def test_at_its_break_even_a_smaller_model_costs_the_same(ask):
    row = ask("budget.ask=overtrain budget.N=7e9 budget.sizes=[3.5e9]")["tables"]["curve"][0]
    served = f"budget.serve_tokens={row['break_even']}"
    two = ask(f"budget.ask=overtrain budget.N=7e9 budget.sizes=[7e9,3.5e9] {served}")
    costs = [r["cost"] for r in two["tables"]["curve"]]
    assert costs[0] == pytest.approx(costs[1])


def test_constraints_of_serving(ask):
    words = "budget.ask=serve budget.N=70e9 budget.hardware=h100"
    one, two = ask(words)["answer"], ask(f"{words} budget.gpus=2")["answer"]
    assert one["weight_bytes"] == 140e9
    assert one["largest_N"] == pytest.approx(40e9)
    assert one["latency_floor"] == pytest.approx(140e9 / 3.35e12)
    assert two["latency_floor"] == pytest.approx(one["latency_floor"] / 2)
    notes = [ask(w)["notes"]["memory"] for w in (words, f"{words} budget.gpus=2")]
    assert notes == ["does not fit", "fits"]
    cached = ask(
        f"{words} budget.context=8192 budget.n_layer=80 budget.n_kv_head=8 budget.head_dim=128"
    )
    assert cached["answer"]["cache_bytes"] == 2 * 80 * 8 * 128 * 2 * 8192


def test_what_no_source_gives_is_asked_for(ask):
    answer = ask("budget.ask=serve budget.N=7e9 budget.hardware=b200")
    assert answer["answer"]["latency_floor"] is None
    assert "budget.bandwidth=" in answer["notes"]["latency_floor"]
    given = ask("budget.ask=serve budget.N=7e9 budget.hardware=b200 budget.bandwidth=7e12")
    assert given["answer"]["latency_floor"] == pytest.approx(2e-3)


def test_an_mfu_that_memory_does_not_allow_is_flagged(ask):
    words = "budget.ask=serve budget.N=7e9 budget.hardware=h100 budget.mfu=.3"
    assert any("out of reach at this batch" in flag for flag in ask(words)["flags"])
    assert not any("out of reach" in f for f in ask(f"{words} budget.batch=512")["flags"])


def test_repeated_data_is_a_range_while_its_constant_is_not_identified(ask):
    words = "budget.ask=data budget.N=7e9 budget.D=1e12 budget.unique_tokens=2e11"
    answer = ask(words)
    assert answer["answer"]["epochs"] == 5
    assert [row["R_D"] for row in answer["tables"]["effective"]] == [14, 200]
    assert any("not identified" in flag for flag in answer["flags"])
    assert len(ask(f"{words} budget.R_D=15")["tables"]["effective"]) == 1
    of_C = ask("budget.ask=data budget.C=1e23 budget.unique_tokens=2e11")["answer"]
    assert of_C["D"] == pytest.approx(LAWS["epoch"].optimum(1e23)[1])


def test_energy_and_emissions(ask):
    words = f"budget.ask=energy budget.N=7e9 budget.D=1e12 {A100}"
    answer = ask(words)["answer"]
    assert answer["kwh"] == pytest.approx(74_786 * 0.4, rel=1e-4)
    assert answer["co2"] is None
    more = ask(f"{words} budget.watts=300 budget.pue=1.1 budget.carbon=.4")["answer"]
    assert more["co2"] == pytest.approx(74_786 * 0.3 * 1.1 * 0.4, rel=1e-4)


def test_tables_of_budgets_and_models(ask):
    rows = ask("budget.ask=budgets budget.budgets=[1e16,1e20]")["tables"]["budgets"]
    assert [row["fitted"] for row in rows] == ["no", "yes"]
    rows = {r["model"]: r for r in ask("budget.ask=models")["tables"]["models"]}
    assert rows["GPT-3"]["verdict"] == "under-trained"
    assert rows["Llama 3 8B"]["verdict"] == "over-trained"
    assert ask("budget.ask=models budget.law=hoffmann")["law"]["name"] == "hoffmann"


def test_a_target_below_the_fitted_range_is_flagged(ask):
    flags = ask("budget.ask=optimal budget.C=1e17")["flags"]
    assert any("C = 1e17 is 14x below the smallest fitted, 1.4e18" in flag for flag in flags)
    flags = ask(f"budget.ask=optimal budget.C=1e9 fits=[{FITS}]")["flags"]
    assert any("below the smallest fitted, 1.2e11" in flag for flag in flags)


def test_ones_own_fit_is_a_law(ask, command, tmp_path):
    answer = ask(f"budget.ask=optimal budget.C=1e13 fits=[{FITS}]")
    content = json.loads(FITS.read_text())["approach3"]
    assert answer["law"]["alpha"] == content["alpha"]
    assert answer["tables"] == {}  # losses of other data stand in no table beside it
    odd = tmp_path / "a, b.json"
    odd.write_text(FITS.read_text())
    assert ask(f"budget.ask=optimal budget.C=1e13 \"fits=['{odd}']\"")["answer"] == answer["answer"]
    assert ask(f"budget.ask=optimal budget.C=1e13 fits={FITS}")["answer"] == answer["answer"]


def records(path: Path, *rows: tuple[float | None, str]) -> Path:
    columns = {"mfu": [r[0] for r in rows], "status": [r[1] for r in rows]}
    pq.write_table(pa.table({**columns, "board": ["NVIDIA X"] * len(rows)}), path)
    return path


def test_a_measured_mfu_is_the_median_of_finished_cells(ask, refused, tmp_path):
    nan = float("nan")
    rows = [
        (0.3, "finished"),
        (0.4, "finished"),
        (0.44, "finished"),
        (0.9, "failed"),
        (nan, "finished"),
    ]
    path = records(tmp_path / "r.parquet", *rows)
    words = f"budget.N=7e9 budget.D=1e12 budget.hardware=a100 budget.records={path}"
    answer = ask(words)
    assert answer["answer"]["mfu"] == 0.4
    assert answer["notes"]["mfu"] == "measured: median of 3 cells (0.3 to 0.44) on NVIDIA X"
    assert "leave one out" in refused(f"{words} budget.mfu=.5")
    none = records(tmp_path / "none.parquet", (None, "finished"))
    assert "no finished cell with an MFU" in refused(words.replace(str(path), str(none)))
    assert "does not exist" in refused(words.replace("r.parquet", "x.parquet"))
    (tmp_path / "bad.parquet").write_text("text")
    assert "is no records.parquet" in refused(words.replace("r.parquet", "bad.parquet"))


# what is refused

BAD = [
    ("", r"budget\.ask=train needs budget\.N= and budget\.D=; .* isoflop budget --help"),
    ("budget.ask=trian", r"budget\.ask=trian is unknown; did you mean train\? it may be train, optimal"),
    ("budget.format=xml", r"budget\.format=xml is unknown; it may be text or json"),
    ("budget.N=7e9 budget.D=1e12 budget.hardware=h10 budget.mfu=.5",
     rf"budget\.hardware=h10 is unknown; did you mean h100\? it may be {', '.join(BOARDS)}, or give budget\.peak="),
    ("budget.N=7e9 budget.D=1e12 budget.hardware=zzz budget.mfu=.5", r"=zzz is unknown; it may be a100"),
    ("budget.N=7e9 budget.D=1e12 budget.hardware=a100", r"Give budget\.mfu= \(assumed\) or budget\.records"),
    ("budget.N=7e9 budget.D=1e12 budget.mfu=.5", r"budget\.mfu is not used without budget\.hardware="),
    ("budget.N=7e9 budget.D=1e12 budget.hardware=a100 budget.peak=1e14 budget.mfu=.5", r"contradict"),
    (f"budget.N=7e9 budget.D=1e12 {A100} budget.price=-2", r"budget\.price=-2 must be not negative"),
    ("budget.N=-7e9 budget.D=1e12", r"budget\.N=-7e\+09 must be positive"),
    ("budget.N=nan budget.D=1e12", r"budget\.N=nan must be positive"),
    ("budget.N=1e50 budget.D=1e12", r"budget\.N=1e\+50 must be positive, and below 1e\+40"),
    ("budget.N=7e9 budget.D=1e12 budget.hardware=a100 budget.mfu=50", r"budget\.mfu=50 must lie in \(0, 1\]"),
    ("budget.N=7e9 budget.D=1e12 budget.law=chinchila", r"budget\.law=chinchila is unknown; it may be epoch"),
    ("budget.N=7e9 budget.D=1e12 budget.serve_tokens=1e12",
     r"serve_tokens is not read by budget\.ask=train; it is read by inference, overtrain"),
    ("budget.N=7e9 budget.D=1e12 budget.law=epoch fits=[x]", r"budget\.law and fits both name a law"),
    ("budget.N=7e9 budget.D=1e12 fits=[x.json]", r"x\.json does not exist: isoflop fit makes it"),
    ("budget.N=7e9 budget.D=1e12 fits=[a,b]", r"fits names 2 files; budget reads one law"),
    ("budget.ask=models fits=[a] budget.N=1", r"budget\.N is not read by budget\.ask=models"),
    ("budget.ask=optimal", r"needs one of budget\.C=, budget\.gpu_hours=, budget\.money="),
    ("budget.ask=optimal budget.C=1e20 budget.gpu_hours=3", r"takes only one of budget\.C=, budget\.gpu_hours="),
    ("budget.ask=optimal budget.gpu_hours=3", r"budget\.ask=optimal .*without budget\.hardware="),
    (f"budget.ask=optimal budget.money=3 {A100}", r"budget\.money needs budget\.price="),
    ("budget.ask=inference budget.N=7e9", r"needs one of budget\.serve_tokens=, budget\.queries="),
    ("budget.ask=inference budget.N=7e9 budget.queries=1e9", r"needs budget\.tokens_per_query="),
    ("budget.ask=inference budget.N=7e9 budget.serve_tokens=1e9 budget.tokens_per_query=3", r"goes with budget\.queries"),
    ("budget.ask=inference budget.N=7e9 budget.loss=2 budget.serve_tokens=1e9", r"both set the quality"),
    ("budget.ask=inference budget.loss=1 budget.serve_tokens=1e9", r"no model reaches 1 under the law epoch: its E is 1\.8172"),
    ("budget.ask=inference budget.loss=1e9 budget.serve_tokens=1e9", r"is that of no language model"),
    (f"budget.ask=inference budget.N=7e9 budget.serve_tokens=1e9 {A100}",
     r"needs budget\.price= and budget\.serve_price= and budget\.serve_mfu="),
    (f"budget.ask=inference budget.N=7e9 budget.serve_tokens=1e9 {A100} budget.price=0 budget.serve_price=1 budget.serve_mfu=.1",
     r"must both be positive"),
    ("budget.ask=serve budget.N=7e9 budget.dtype=fp7", r"budget\.dtype=fp7 is unknown; it may be float32"),
    ("budget.ask=serve budget.N=7e9 budget.context=10", r"a KV cache also needs budget\.n_layer=, budget\.n_kv_head="),
    ("budget.ask=serve budget.N=7e9 budget.mfu=.1", r"budget\.mfu is not used without"),
    ("budget.ask=serve budget.N=7e9 budget.price=1", r"budget\.price is not used without"),
    ("budget.ask=data budget.N=7e9 budget.D=1e12", r"needs budget\.unique_tokens="),
    ("budget.ask=data budget.N=7e9 budget.C=1e22 budget.unique_tokens=1e11", r"takes only one of budget\.C=, budget\.N="),
    ("budget.ask=energy budget.N=7e9 budget.D=1e12 budget.peak=1e14 budget.mfu=.5", r"add budget\.watts="),
    (f"budget.ask=energy budget.N=7e9 budget.D=1e12 {A100} budget.pue=.9", r"budget\.pue=0\.9 is below 1"),
    ("budget.ask=budgets", r"needs budget\.budgets="),
    ("budget.ask=budgets budget.budgets=[]", r"budget\.budgets=\[\] is empty"),
    ("budget.ask=budgets budget.budgets=[-1]", r"budget\.budgets=-1 must be positive"),
    ("budget.gpu=3", r"budget\.gpu is not a key; did you mean budget\.gpus"),
    ("grid=demo", r"grid is not read by isoflop budget"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), BAD, ids=[w or "nothing" for w, _ in BAD])
def test_a_wrong_question_is_refused_in_one_line_that_says_why(refused, words, said):
    assert re.search(said, refused(words)), refused(words)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 99}, r"has fits schema 99, this code reads 1"),
        (
            {"approach3": {"status": "too_few", "reason": "2 runs"}},
            r"has no law: approach3 is too_few",
        ),
    ],
)
def test_a_fits_file_without_a_law_is_refused(refused, tmp_path, change, said):
    path = tmp_path / "fits.json"
    path.write_text(json.dumps(json.loads(FITS.read_text()) | change))
    assert re.search(said, refused(f"budget.N=7e9 budget.D=1e12 fits=[{path}]"))


# help and start-up


@pytest.mark.parametrize("verb", list(VERBS))
def test_help_of_a_verb_fits_a_screen(command, verb):
    code, out, err = command(verb, "--help")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) <= 50
    assert max(map(len, out.splitlines())) <= 140
    assert VERBS[verb].example in out


def test_the_overview_fits_a_small_screen(command):
    assert len(command("--help")[1].splitlines()) <= 24


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["budget", *EXAMPLES["train"][1].split()], "torch scipy pandas numpy pyarrow matplotlib"),
        (["budget", "budget.ask=optimal", "budget.C=1e13", f"fits=[{FITS}]"], "torch scipy pandas pyarrow"),
        (["budget", "--help"], "torch scipy pandas numpy pyarrow hydra omegaconf"),
        (["--help"], "torch scipy pandas numpy pyarrow hydra omegaconf"),
    ],
    ids=["budget", "fits", "help", "overview"],
)  # fmt: skip
def test_start_up_imports_only_what_it_needs(words, absent):
    code = (
        f"import sys; from sweep import cli; sys.argv = ['isoflop', *{words!r}]; code = cli.main();"
        f"print(sorted(set({absent.split()!r}) & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "budget.md"
SHOWN = re.findall(r"^```sh\nisoflop budget ([^\n]*)\n```\n\n```\n(.*?)^```", DOCUMENT.read_text(), re.M | re.S)  # fmt: skip


def test_every_question_but_lists_is_shown():
    asked = {
        re.search(r"budget\.ask=(\w+)", words + " budget.ask=train").group(1) for words, _ in SHOWN
    }
    assert asked == set(READS) - {"laws", "hardware"}


@pytest.mark.parametrize(("words", "shown"), SHOWN, ids=[w for w, _ in SHOWN])
def test_answers_in_the_document_are_real(command, words, shown):
    code, out, _ = command("budget", *shlex.split(words))
    assert code == 0
    left_out = ("Source:", "Regime:")
    lines = [line for line in out.splitlines() if not line.startswith(left_out)]
    # the condition is a residual of rounding: its digits are the machine's
    real, said = ([x for x in part if "condition" not in x] for part in (lines, shown.splitlines()))
    assert said == real
