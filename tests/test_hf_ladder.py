"""A ladder of an architecture of transformers: rules that scale it, its counts, and what is refused."""

import io
import json
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from helpers_archs import size_of
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.schema import ModelConf
from models import hf_count
from models.hf_build import make_config
from models.hf_config import Counts
from sweep import hf_counts
from sweep.arguments import parse
from sweep.hf_counts import counted
from sweep.hf_ladder import _sizes
from sweep.hf_scale import parse_rule, scaled

REPO = Path(__file__).resolve().parents[1]
RUNG = "{num_hidden_layers:2,hidden_size:32,num_attention_heads:4}"


@pytest.mark.parametrize(
    ("text", "hidden", "value"),
    [
        ("intermediate_size = 8/3 hidden_size to 8", 64, 168),
        ("intermediate_size = 8/3 hidden_size to 8", 1, 8),
        ("intermediate_size=4 hidden_size", 64, 256),
        ("intermediate_size = 2.5 hidden_size", 64, 160),
        ("intermediate_size = 1/2 hidden_size", 64, 32),
        ("intermediate_size = 1/16 hidden_size to 4", 96, 8),  # 6: a tie goes up
    ],
)
def test_a_rule_gives_whole_numbers(text, hidden, value):
    assert parse_rule(text).apply({"hidden_size": hidden}) == value


@settings(max_examples=50)
@given(st.integers(1, 99), st.integers(1, 99), st.integers(1, 5000), st.integers(1, 64))
def test_a_rounded_rule_is_within_half_a_step_of_its_ratio(a, b, hidden, to):
    value = parse_rule(f"f = {a}/{b} hidden_size to {to}").apply({"hidden_size": hidden})
    assert value % to == 0
    assert value == to or abs(value - Fraction(a, b) * hidden) <= Fraction(to, 2)


def test_a_rule_may_build_on_one_before_it():
    rules = [parse_rule("inner = 2 hidden_size"), parse_rule("num_heads = 1/8 inner")]
    assert scaled({"head_dim": 8}, {"hidden_size": 32}, rules) == {
        "head_dim": 8, "hidden_size": 32, "inner": 64, "num_heads": 8,
    }  # fmt: skip


@settings(max_examples=30)
@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_refused(text):
    try:
        rule = parse_rule(text)
    except ValueError:
        with pytest.raises(ValueError, match="is not KEY = RATIO KEY"):
            parse_rule(text)
    else:
        assert rule.key
        assert rule.ratio >= 0


def test_the_ladder_that_comes_with_it_is_one_of_llamas():
    model = parse("plan", ["model=hf"], ("model",)).app.model
    widths = [
        make_config("llama", keys, 128, model.seq_len).intermediate_size
        for keys in _sizes(model, {})
    ]
    assert widths == [32, 40, 64, 88, 128, 168, 256]


def test_the_ladder_in_the_documents_is_one_of_mamba_2s():
    text = (REPO / "docs" / "config.md").read_text()
    (block,) = re.findall(r"^```yaml\n(name: mamba2\n.*?)^```", text, re.M | re.S)
    model = ModelConf(**yaml.safe_load(block))
    heads = [
        make_config(model.architecture, keys, 128, model.seq_len).num_heads
        for keys in _sizes(model, {})
    ]
    assert heads == [4, 6, 8]


def plan(*words: str) -> tuple[str, ...]:
    return ("plan", "model=hf", "grid=smoke", *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["model.scale=['intermediate_size = 8/3 hidden_size']", f"model.rungs=[{RUNG}]"],
            r"model.rungs\[0\]: model.scale: .* gives 85.3333 at hidden_size=32, .*to 8",
        ),
        (["model.scale=['intermediate_size is large']"], "is not KEY = RATIO KEY"),
        (["model.scale=['intermediate_size = 2 width']"], "needs width, a whole number"),
        (
            ["model.scale=['hidden_size = 2 num_hidden_layers']"],
            "hidden_size is set twice: by model.scale",
        ),
        (
            [f"model.rungs=[{RUNG},{{hidden_size:64}}]"],
            r"model.rungs\[1\]: num_attention_heads is set in some",
        ),
        (["model.base={intermediate_size:32}"], "intermediate_size is set twice: in model.base"),
        (["model.base={hidden_size:32}"], "hidden_size is set in model.base too"),
        (["model.rungs=[]"], "model.rungs has no sizes"),
        (["model.base={_target_:os.system}"], "model.base: _target_ is no key"),
        (
            ["model.base={auto_map:{AutoModelForCausalLM:x.Y}}"],
            "code of its own .auto_map., which is never run",
        ),
        (["model.base={trust_remote_code:true}"], "code of its own .trust_remote_code."),
        (["model.norm=rmsnorm"], "model.norm is our GPT's"),
        (["model.ladder=[{n_layer:1,d_model:8,n_head:1}]"], "give sizes in model.rungs"),
        (["model.seq_len=0"], "model.seq_len=0 must be at least 1"),
        (["model.architecture=meta-llama/Llama-3.1-8B"], "nothing is fetched from the hub"),
        (["model.architecture=../../nowhere.json"], "no such file"),
        (["model.architecture=null"], "model.scale is not read without model.architecture"),
        (["recipe.optimizer=muon"], "recipe.optimizer=muon with model.architecture=llama"),
        (["data.document_mask=true"], "data.document_mask=true with model.architecture"),
        (["hardware.attention=reference"], "transformers chooses its own"),
        (["hardware.ranks=2"], "hardware.ranks=2 with model.architecture"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_is_counted(command, tmp_path, words, said):
    status, out, err = command(*plan(f"root={tmp_path / 'root'}", *words))
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert re.search(said, err), err
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model_type": "llama", "auto_map": {"AutoConfig": "x.Y"}}, "code of its own"),
        ({"hidden_size": 32}, "has no model_type"),
        ([1], "has no model_type"),
        ({"model_type": "llama", "quantization_config": {"bits": 4}}, "quantised weights"),
        ("{", "can't be read as JSON"),
    ],
)
def test_a_file_that_is_no_plain_configuration_is_refused(command, tmp_path, content, said):
    path = tmp_path / "config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    status, _, err = command(*plan(f"model.architecture={path}"))
    assert status == 2
    assert said in err
    assert len(err.splitlines()) == 1


def cached(cache: Path, counts, keys: dict) -> Path:
    """Put counts where a plan looks for them first."""
    asked = {"architecture": "llama", "keys": keys, "vocab_size": 128, "seq_len": 32}
    path = hf_counts._path(
        cache, [asked, hf_counts.transformers_version(), hf_counts._source_hash()]
    )
    hf_counts._write(counts, path)
    return path


def test_a_process_of_its_own_counts_what_the_cache_lacks(tmp_path, monkeypatch):
    """Its refusal names the size; what was counted before needs no process."""
    wanted = size_of("llama")
    path = cached(tmp_path, wanted.counts, wanted.keys)
    sizes = [wanted.keys, {**wanted.keys, "hidden_size": 30}]
    with pytest.raises(
        ValueError, match=r"^model.rungs\[1\]: llama refuses its keys: The hidden size"
    ):
        counted("llama", sizes, 128, 32, tmp_path)
    monkeypatch.setattr(hf_counts.sys, "executable", "/nowhere")
    assert counted("llama", sizes[:1], 128, 32, tmp_path) == [wanted.counts]
    path.write_text("{")
    with pytest.raises(OSError, match="/nowhere"):
        counted("llama", sizes[:1], 128, 32, tmp_path)


def test_the_process_prints_what_it_counted(monkeypatch, capsys):
    wanted = size_of("llama")
    asked = {"architecture": "llama", "keys": wanted.keys, "vocab_size": 128, "seq_len": 32}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"sizes": [asked]})))
    hf_count.main()
    (counts,) = json.loads(capsys.readouterr().out)["counts"]
    assert Counts(**counts) == wanted.counts


def test_a_plan_imports_neither_torch_nor_transformers(tmp_path, text_folder):
    """With a local file as architecture, whose keys base and rungs replace."""
    wanted = size_of("llama", seq_len=32)
    keys = wanted.keys
    del keys["hidden_size"], keys["num_attention_heads"]
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "llama", "vocab_size": 9, "eos_token_id": 2, **keys}))
    cached(tmp_path / "root" / ".data", wanted.counts, wanted.keys)
    code = f"""
import json, sys
from sweep.arguments import parse
from sweep.plan import plan_dict
from sweep.resolve import resolve
words = ["model=hf", "model.architecture={path}", "model.seq_len=32", "model.scale=[]",
         "model.rungs=[{{hidden_size:32,num_attention_heads:4}}]", "root={tmp_path / "root"}",
         "data=text_folder", "data.path={text_folder}", "data.tokenizer=bytes128", "recipe=fixed",
         "recipe.lr=.01", "recipe.batch_rows=8", "grid.budgets=[5e10]", "grid.tokens_per_param=8"]
app = parse("plan", words, ("model", "model.*", "root", "data", "data.*", "recipe", "recipe.*", "grid.*")).app
resolved = resolve(app)
print(json.dumps([[m for m in ("torch", "transformers") if m in sys.modules],
                  plan_dict(resolved, app)["cells"][0]["architecture_config"],
                  resolved.grid.cells[0].model.counts.source]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    imported, config, source = json.loads(done.stdout)
    assert imported == []
    assert config == wanted.config
    assert source == wanted.counts.source
