"""Exported cells: every mix of options, its logits and its tokens, in a process without our code."""

import itertools
import json
from dataclasses import dataclass, replace

import pytest
import yaml
from helpers_cells import MODEL
from helpers_export import BYTES, Trained, job, look_afresh, random_model, train_all
from helpers_models import any_config
from hypothesis import given
from hypothesis import strategies as st

from analysis.stored_law import read_stored_law
from models.config import MLP, GPTConfig, Norm, Positions
from models.flops import count_params
from models.parametrisation import as_standard
from models.stock import NoStockForm, changes_of, stock_of, weights_of
from results.provenance import CHECKOUT
from results.store import read_record
from sweep.data_tokenizer import ByteEncoder, byte_id
from sweep.errors import UsageError
from sweep.export_form import LIMIT
from sweep.export_gpt import compare_logits, trained_model, write_checkpoint
from sweep.export_tokenizer import (
    find_encoder,
    open_tokenizer,
    why_not_the_same,
    write_tokenizer,
)
from sweep.trained import with_weights

TEXTS = [
    "Plain words, and 1,234 numbers.",
    "\tna\u00efve caf\u00e9 \u4e2d\u6587 \U0001f600\r\n",
    "<|endoftext|>\u0100",
    "",
]
BYTES256 = ByteEncoder(byte_id("bytes256", tuple(range(256))), tuple(range(256)))
FILES = {"README.md", "config.json", "generation_config.json", "isoflop.json", "model.safetensors",
         "tokenizer.json", "tokenizer_config.json"}  # fmt: skip
CLASS = {  # norm, mlp, qk_norm of rotary models
    (Norm.RMSNORM, MLP.SWIGLU, False): "LlamaForCausalLM",
    (Norm.RMSNORM, MLP.GELU, False): "ArceeForCausalLM",
    (Norm.RMSNORM, MLP.RELU2, False): "ArceeForCausalLM",
    (Norm.LAYERNORM, MLP.SWIGLU, False): "StableLmForCausalLM",
    (Norm.LAYERNORM, MLP.GELU, False): "Starcoder2ForCausalLM",
    (Norm.LAYERNORM, MLP.RELU2, False): "Starcoder2ForCausalLM",
    (Norm.RMSNORM, MLP.SWIGLU, True): "Qwen3ForCausalLM",
    (Norm.LAYERNORM, MLP.SWIGLU, True): "Qwen3ForCausalLM",
    **{(norm, mlp, True): "ApertusForCausalLM" for norm in Norm for mlp in (MLP.GELU, MLP.RELU2)},
}

EXPERTS = {
    "MixtralForCausalLM": {"tied": True, "n_kv_head": 2},
    "GraniteMoeSharedForCausalLM": {"n_shared_expert": 1, "granularity": 2},
    "Qwen3MoeForCausalLM": {"qk_norm": True, "top_k": 1},
}


def class_of(cfg: GPTConfig) -> str:
    """Return what should come of a mix."""
    if cfg.n_expert is not None:
        kind = (
            "Qwen3Moe" if cfg.qk_norm else "GraniteMoeShared" if cfg.n_shared_expert else "Mixtral"
        )
        return f"{kind}ForCausalLM"
    if cfg.positions is Positions.LEARNED:
        return "GPT2LMHeadModel"
    return CLASS[cfg.norm, cfg.mlp, cfg.qk_norm]


def every_mix() -> list[GPTConfig]:
    """Every norm, MLP and QK-norm that exports, tied with fewer key heads or neither; one size."""
    size = {"n_layer": 2, "d_model": 48, "n_head": 4, "vocab_size": 256, "seq_len": 64}
    mixes = [
        GPTConfig(**size, norm=norm, mlp=mlp, qk_norm=qk_norm, tied=tied, n_kv_head=kv)
        for norm, mlp, qk_norm in CLASS
        for tied, kv in ((False, None), (True, 2))
    ]
    learned = [
        GPTConfig(**size, positions=Positions.LEARNED, mlp=mlp, tied=tied)
        for mlp, tied in itertools.product((MLP.GELU, MLP.RELU2), (False, True))
    ]
    experts = [
        GPTConfig(**size, norm=norm, mlp=MLP.SWIGLU, n_expert=4, **options)
        for norm, options in itertools.product(Norm, EXPERTS.values())
    ]
    return [*mixes, *learned, *experts]


@dataclass(frozen=True)
class Exports:
    """What a fresh process found, by mix and by tokenizer."""

    trained: Trained
    mixes: list[tuple[GPTConfig, dict]]
    cells: dict[str, dict]
    out: dict


@pytest.fixture(scope="module")
def exports(tmp_path_factory, text_folder) -> Exports:
    """Export every mix, and two cells by the command line; look at all in one fresh process."""
    from sweep import cli

    root = tmp_path_factory.mktemp("exports")
    trained, jobs, mixes = train_all(root, text_folder), [], every_mix()
    out = {"bytes": root / "of bytes", "bpe": root / "bpe-out"}
    with pytest.MonkeyPatch.context() as patch:
        for name, cell in (("bytes", BYTES), ("bpe", trained.bpe)):
            words = trained.words(cell.id, f"out={out[name]}")
            patch.setattr("sys.argv", ["isoflop", "export", *words])
            assert cli.main() == 0
            model = trained_model(with_weights(trained.folder, cell.id))
            jobs.append(job(model, out[name], TEXTS))
    named = set()
    for i, cfg in enumerate(mixes):
        model, folder, stock = random_model(cfg, seed=i), root / str(i), stock_of(cfg)
        folder.mkdir()
        write_checkpoint(model, stock, 0, weights_of(model, stock), folder)
        if first := stock not in named:  # what reads a tokenizer may depend on the architecture
            write_tokenizer(BYTES256, folder, cfg.seq_len)
        named.add(stock)
        jobs.append(job(model, folder, TEXTS if first else []))
    found = look_afresh(jobs, root)
    return Exports(
        trained,
        list(zip(mixes, found[2:], strict=True)),
        dict(zip(out, found[:2], strict=True)),
        out,
    )


def test_every_mix_has_equal_logits_in_a_fresh_process(exports):
    assert len(exports.mixes) == 34
    worst = max(exports.mixes, key=lambda one: one[1]["difference"])
    assert worst[1]["difference"] <= 1e-5, worst
    for cfg, found in exports.mixes:
        assert found["class"] == class_of(cfg)
        assert (found["code_of"], found["dtype"]) == ("transformers", "torch.float32")
        assert (found["wrong_keys"], set(found["eos"])) == (0, {0})


def test_every_architecture_takes_the_tokenizer(exports):
    found = {found["class"]: found for _, found in exports.mixes if "ids" in found}
    assert set(found) == {*CLASS.values(), *EXPERTS, "GPT2LMHeadModel"}
    for one in found.values():
        assert one["ids"] == [list(text.encode()) for text in TEXTS]
        assert one["back"] == TEXTS


def test_a_checkpoint_stores_the_parameters_and_what_its_card_says(exports):
    for cfg, found in exports.mixes:
        more = found["numbers"] - count_params(cfg).total
        said = " ".join(changes_of(stock_of(cfg), cfg))
        assert (more > 0) == ("biases, which are zero" in said or "keeps the table" in said), cfg


@pytest.mark.parametrize("name", ["bytes", "bpe"])
def test_a_trained_cell_has_equal_logits_and_tokens_in_a_fresh_process(exports, name):
    found, trained = exports.cells[name], exports.trained
    cell = BYTES if name == "bytes" else trained.bpe
    encoder = find_encoder(with_weights(trained.folder, cell.id), trained.folder)
    ours = [encoder.encode([t.encode()], False).ids[:-1].tolist() for t in TEXTS]
    assert found["ids"] == ours
    assert found["eos"] == [encoder.id.eod] * 3
    assert found["difference"] <= 1e-5
    assert {p.name for p in exports.out[name].iterdir()} == FILES
    assert len({p.stat().st_mode for p in exports.out[name].iterdir()}) == 1
    if name == "bpe":  # bytes128 forgets rare bytes, as it did in training
        assert found["back"] == TEXTS


def test_a_card_says_what_the_record_says(exports):
    trained, out = exports.trained, exports.out["bytes"]
    record = read_record(trained.folder.records / f"{BYTES.id}.0.parquet")
    card = (out / "README.md").read_text()
    front, text = card.split("---\n", 2)[1:]
    assert yaml.safe_load(front)["library_name"] == "transformers"
    for value in (
        BYTES.id, f"{record['N_total']:,}", f"{record['tokens']:,}", f"{record['flops']:.4g}",
        f"{record['val_loss']:.6f} ± {record['val_loss_se']:.4f}", 
        record["data_sha256"], "bytes128", "wsd", "Starcoder2ForCausalLM",
        "the sweep has no fits.json",
    ):  # fmt: skip
        assert value in text
    assert record["git_sha"] is None or record["git_sha"] in text
    made = json.loads((out / "isoflop.json").read_text())
    assert (made["cell_id"], made["attempt"]) == (BYTES.id, 0)
    assert made["record"]["val_loss"] == record["val_loss"]
    assert "host" not in made["record"]
    assert made["logits"]["same_angles"] <= LIMIT * max(1, made["logits"]["largest"])


def test_a_card_says_where_the_cell_lies_against_the_law(exports, tmp_path, command):
    folder, path = exports.trained.folder, CHECKOUT / "results/reference/demo/fits.json"
    folder.fits.write_bytes(path.read_bytes())
    try:
        words = exports.trained.words(BYTES.id, f"out={tmp_path / 'out'}")
        code, said, _ = command("export", *words)
    finally:
        folder.fits.unlink()
    record = read_record(folder.records / f"{BYTES.id}.0.parquet")
    law = read_stored_law(path).expected(record["N_flops"], record["tokens"], record["flops"])
    line = f"predicts {law.loss:.4f}"
    off = f"this cell is at {record['val_loss'] / law.loss - 1:+.2%}"
    for text in (said, (tmp_path / "out" / "README.md").read_text()):
        assert line in text
        assert off in text
    assert code == 0


def test_a_checkpoint_with_a_mistake_is_noticed(tmp_path):
    """Rows of one query matrix as they were trained: the commonest mistake of such a conversion."""
    model = random_model(replace(MODEL, norm=Norm.RMSNORM, mlp=MLP.SWIGLU))
    stock = stock_of(model.cfg)
    weights = weights_of(model, stock)
    write_checkpoint(model, stock, 0, weights, tmp_path)
    assert compare_logits(model, stock, tmp_path).as_loaded <= 1e-5
    weights["model.layers.0.self_attn.q_proj.weight"] = (
        model.blocks[0].attn.qkv.weight[:16].detach().clone()
    )
    write_checkpoint(model, stock, 0, weights, tmp_path)
    compared = compare_logits(model, stock, tmp_path)
    assert compared.same_angles > 10 * LIMIT * max(1, compared.largest)


def test_on_long_rows_transformers_rounds_angles_and_the_weights_are_equal(tmp_path):
    """Position 1,000 times a frequency has 4 digits after the point in float32.

    Sharp attention shows it: gains of 4 on heads of 48.
    """
    size = {"n_layer": 3, "d_model": 96, "n_head": 2, "vocab_size": 64, "seq_len": 1024}
    model = random_model(GPTConfig(**size, norm=Norm.RMSNORM, mlp=MLP.SWIGLU, qk_norm=True))
    for block in model.blocks:
        block.attn.q_norm.weight.data.mul_(4)
    stock = stock_of(model.cfg)
    write_checkpoint(model, stock, 0, weights_of(model, stock), tmp_path)
    compared = compare_logits(model, stock, tmp_path)
    assert compared.same_angles <= LIMIT * max(1, compared.largest)
    assert compared.same_angles < compared.as_loaded / 2
    assert "at the rotary angles of training" in compared.in_words


@given(any_config(largest_d=32))
def test_any_model_exports_all_its_weights_or_names_what_is_in_the_way(cfg):
    cfg, _ = as_standard(cfg, {})  # the multipliers of muP are in the weights
    if not _has_a_form(cfg):
        with pytest.raises(NoStockForm, match=r"would export|every value exports|export with"):
            stock_of(cfg)
        return
    stock = stock_of(cfg)
    assert stock.class_name == class_of(cfg)
    weights = weights_of(random_model(cfg), stock)
    at_least = count_params(cfg).total
    assert sum(w.numel() for w in weights.values()) >= at_least
    storages = {w.untyped_storage().data_ptr() for w in weights.values()}
    assert len(storages) == len(weights)


def _has_a_form(cfg: GPTConfig) -> bool:
    if cfg.n_expert is not None:
        whole = cfg.expert_width % 4 == 0 == cfg.d_model % 4
        known = cfg.n_shared_expert == 0 if cfg.qk_norm else cfg.top_k > 1
        return cfg.mlp is MLP.SWIGLU and cfg.positions is Positions.ROTARY and known and whole
    options = (cfg.norm, cfg.mlp, cfg.qk_norm, cfg.n_kv_head)
    gpt2 = options in [(Norm.LAYERNORM, mlp, False, None) for mlp in (MLP.GELU, MLP.RELU2)]
    return cfg.positions is Positions.ROTARY or gpt2


SIZE = {"n_layer": 1, "d_model": 8, "n_head": 1, "vocab_size": 9, "seq_len": 8}
SWIGLU = {"mlp": MLP.SWIGLU, "n_expert": 4}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_expert": 4}, r"model\.mlp=gelu .* export with model\.mlp=swiglu"),
        ({**SWIGLU, "positions": Positions.LEARNED}, r"model\.positions=learned has no"),
        ({**SWIGLU, "top_k": 1}, r"model\.top_k=1 .* model\.qk_norm=true"),
        ({**SWIGLU, "qk_norm": True, "n_shared_expert": 2, "granularity": 1}, r"n_shared_expert=2"),
        ({**SWIGLU, "granularity": 8}, r"width of an expert of 3 is no multiple of 4"),
        (
            {"parametrisation": "mup", "base_d_model": 8},
            r"model\.parametrisation=mup .* model\.parametrisation=standard would",
        ),
    ],
)
def test_an_option_that_no_stock_architecture_has_is_refused_by_name(options, said):
    with pytest.raises(NoStockForm, match=said):
        stock_of(GPTConfig(**SIZE, **options))


def test_the_plain_model_is_a_starcoder():
    assert stock_of(GPTConfig(**SIZE)).model_type == "starcoder2"


@pytest.fixture(scope="module")
def tokenizers(exports, tmp_path_factory):
    """Return each kind of tokenizer, ours beside what transformers reads of its export."""
    folder, found = exports.trained.folder, {}
    for name, cell in (("bytes128", BYTES), ("bpe", exports.trained.bpe)):
        encoder = find_encoder(with_weights(folder, cell.id), folder)
        found[name] = encoder, open_tokenizer(exports.out[name.removesuffix("128")])
    write_tokenizer(BYTES256, out := tmp_path_factory.mktemp("bytes256"), 128)
    return found | {"bytes256": (BYTES256, open_tokenizer(out))}


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_text_has_the_ids_of_training(tokenizers, text):
    for encoder, tokenizer in tokenizers.values():
        assert why_not_the_same(encoder, tokenizer, [text]) is None
    _, bytes256 = tokenizers["bytes256"]
    ids = bytes256(text)["input_ids"]
    assert ids == list(text.encode())
    assert bytes256.decode(ids) == text


def test_a_tokenizer_that_comes_back_with_other_ids_is_refused(tmp_path):
    """Bytes folded to lower case: no tokenizer.json of single bytes says which share a token."""
    table = tuple(ord(chr(b).lower()) if b < 128 else b for b in range(256))
    folded = ByteEncoder(byte_id("bytes256", table), table)
    with pytest.raises(UsageError, match=r"data\.tokenizer=bytes256 can't be exported: .* tokens"):
        write_tokenizer(folded, tmp_path, 128)
