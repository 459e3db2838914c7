"""Architectures of transformers as cells: they train, resume to the bit, and are counted as they run."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from helpers_archs import KEYS, size_of
from helpers_cells import CPU, MODEL, RUN, data_settings, tiny_cell
from torch.utils.flop_counter import FlopCounterMode

from models.build import make_model
from models.config import MLP, GPTConfig, Norm
from models.flops import FlopRule, count_params, flops_per_token
from models.hf_build import known_keys, make_config
from models.hf_config import HFConfig, plain_json
from models.hf_count import count
from sweep.attempt import run_attempt
from sweep.cells import cell_from_row, cell_to_row
from sweep.claim import claim
from sweep.data import open_data
from sweep.device import open_device
from sweep.folder import SweepFolder
from sweep.memory import memory_needed
from sweep.optimizer import make_optimizer
from sweep.train import Trainer

FIVE = list(KEYS)


@pytest.fixture(scope="module")
def device():
    """Open the CPU with one thread."""
    return open_device(CPU)


@pytest.fixture(scope="module")
def data(text_folder, shards):
    """Open rows of 32 tokens."""
    return open_data(shards, data_settings(text_folder), MODEL.seq_len)


def build(cfg, seed: int = 0) -> torch.nn.Module:
    model = make_model(cfg, None, None)
    model.init_weights(seed)
    return model


# The others with the faults, by make test-cluster.
@pytest.mark.parametrize(
    "name", [*FIVE[:1], *(pytest.param(n, marks=pytest.mark.slow) for n in FIVE[1:])]
)
def test_each_trains_and_goes_on_from_a_checkpoint_to_the_same_bits(name, data, device):
    cell = tiny_cell(24, model=size_of(name), lr=0.01, lr_embedding=0.01)
    whole = Trainer(cell, data.train, device)
    losses = [whole.train_step().item() for _ in range(12)]
    state = {**whole.state(), "model": {k: v.clone() for k, v in whole.state()["model"].items()}}
    state["optimizer"] = torch.load(_saved(whole.optimizer.state_dict()), weights_only=True)
    losses += [whole.train_step().item() for _ in range(12)]
    assert abs(losses[0] - math.log(128)) < 0.5
    assert sum(losses[-4:]) / 4 < sum(losses[:4]) / 4 - 0.25
    again = Trainer(cell, data.train, device)
    again.restore(state)
    assert [again.train_step().item() for _ in range(12)] == losses[12:]
    weights = zip(whole.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def _saved(state: dict):
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def counted(cfg, backward: bool = False) -> int:
    """FLOPs of one row as torch counts them where attention and experts are plain matmuls, on the CPU."""
    model = build(cfg)
    model.net.set_attn_implementation("eager")
    model.net.set_experts_implementation("batched_mm")
    tokens = torch.arange(cfg.seq_len)[None] % cfg.vocab_size
    with FlopCounterMode(display=False) as counter:
        loss = model(tokens, None, tokens).cross_entropy if not backward else model(tokens).sum()
        if backward:
            loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["llama", "qwen3", "mixtral"])
def test_the_palm_rule_is_what_torch_counts_forward_and_backward(name):
    cfg = size_of(name)
    assert cfg.counts.source.endswith("torch counts the same")
    assert counted(cfg, backward=True) == cfg.seq_len * flops_per_token(cfg, FlopRule.PALM)


def convolutions(cfg, kernel: int, channels: int) -> int:
    """FLOPs that torch counts for padded places beyond a row, which no token needs."""
    return 2 * kernel * channels * (kernel - 1)


def test_mamba2_is_counted_but_for_what_its_chunks_do_twice():
    cfg, keys = size_of("mamba2"), KEYS["mamba2"]
    T, H, P, N = cfg.seq_len, keys["num_heads"], keys["head_dim"], keys["state_size"]
    assert cfg.counts.scan == 2 * (2 * H * P * N)
    within = 2 * T * T * H * (N + P)  # scores within the one chunk, and their sum
    between = 2 * 2 * 2 * H * P * N  # two states, each from two
    layer = within + between + convolutions(cfg, 4, H * P + 2 * N)
    ours = T * flops_per_token(cfg, FlopRule.PALM) / 3
    assert counted(cfg) == ours + 2 * layer
    assert "recurrences by formula; torch counts +" in cfg.counts.source
    assert flops_per_token(cfg, FlopRule.PALM_CAUSAL) == flops_per_token(cfg, FlopRule.PALM)


def test_a_gated_delta_net_is_counted_but_for_what_its_chunks_do_beside():
    cfg, keys = size_of("qwen3_next", seq_len=64), KEYS["qwen3_next"]  # one chunk of 64
    T, H = cfg.seq_len, keys["linear_num_value_heads"]
    K, V = keys["linear_key_head_dim"], keys["linear_value_head_dim"]
    assert cfg.counts.scan == 3 * H * K * V
    within = 2 * T * T * H * (2 * K + V)  # two tables of scores within the chunk, and one sum
    channels = 2 * keys["linear_num_key_heads"] * K + H * V
    ours = T * flops_per_token(cfg, FlopRule.PALM) / 3
    assert counted(cfg) == ours + within + convolutions(cfg, 4, channels)


def test_experts_count_as_far_as_a_token_visits_them():
    N = count_params(size_of("mixtral"))
    experts = 2 * 4 * 3 * 32 * 48  # layers, experts, matrices
    assert N.resting == experts / 2
    assert N.active == N.total - experts / 2
    assert flops_per_token(size_of("mixtral"), FlopRule.SIX_ND) == 6 * N.active


@pytest.mark.parametrize(("n_kv_head", "tied"), [(None, False), (2, True)])
def test_a_llama_of_our_gpts_shape_has_its_parameters_and_flops(n_kv_head, tied):
    ours = GPTConfig(
        n_layer=3, d_model=48, n_head=4, vocab_size=200, seq_len=40, n_kv_head=n_kv_head, tied=tied,
        norm=Norm.RMSNORM, mlp=MLP.SWIGLU,
    )  # fmt: skip
    keys = {
        "num_hidden_layers": 3, "hidden_size": 48, "num_attention_heads": 4,
        "num_key_value_heads": ours.kv_heads, "intermediate_size": ours.mlp_width,
        "tie_word_embeddings": tied,
    }  # fmt: skip
    counts = count("llama", keys, 200, 40)
    theirs = HFConfig(
        architecture="llama", config=plain_json(keys), vocab_size=200, seq_len=40, counts=counts
    )
    assert count_params(theirs) == count_params(ours)
    for rule in FlopRule:
        assert flops_per_token(theirs, rule) == flops_per_token(ours, rule), rule


@pytest.mark.parametrize("name", ["llama", "mamba2"])
def test_what_a_step_keeps_is_what_was_predicted(name):
    cfg, rows = size_of(name), 3
    model, kept = build(cfg), {}
    held = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in held:
            kept[x.untyped_storage().data_ptr()] = x
        return x

    tokens = torch.zeros(rows, cfg.seq_len, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model(tokens, None, tokens)
    found = sum(x.untyped_storage().nbytes() for x in kept.values())
    assert found == pytest.approx(rows * cfg.counts.row_bytes, rel=0.1)
    assert memory_needed(cfg, rows, half=False) > found + 16 * count_params(cfg).total


def test_first_weights_depend_on_the_seed_alone():
    cfg = size_of("mamba2")
    torch.manual_seed(1)
    a, before = build(cfg, seed=3), torch.get_rng_state()
    a.init_weights(4)
    other = [p.clone() for p in a.parameters()]
    a.init_weights(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    b = build(cfg, seed=3)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(other, b.parameters(), strict=True))


@pytest.mark.parametrize("name", ["mixtral", "qwen3_next"])
def test_matrices_decay_and_nothing_else_does(name):
    cfg = size_of(name)
    model = build(cfg)
    decayed, rest = make_optimizer(model, tiny_cell(4, model=cfg)).param_groups
    N = count_params(cfg)
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert sum(p.numel() for p in decayed["params"]) == N.matmul
    assert sum(p.numel() for p in rest["params"]) == N.embedding + N.gains


def test_a_record_says_what_ran_and_gives_the_cell_again(tmp_path, data, text_folder, device):
    cell = tiny_cell(6, model=size_of("mixtral"))
    folder = SweepFolder(tmp_path, "s")
    attempt = claim(folder, cell, resume=True)
    record = run_attempt(attempt, folder, data, data_settings(text_folder), device, RUN)
    attempt.release()
    assert (record.status, record.reason) == ("finished", None)
    assert (record.architecture, record.attention, record.cross_entropy) == ("mixtral", "transformers", "plain")  # fmt: skip
    assert record.flop_source == cell.model.counts.source
    assert record.N_active == record.N_total - cell.model.counts.resting < record.N_total
    assert (record.n_head, record.head_dim, record.norm) == (4, 8, None)
    row = pd.DataFrame([vars(record)]).to_dict("records")[0]
    assert cell_from_row(row) == cell


def test_the_id_holds_what_was_asked_and_not_what_was_found():
    cell = tiny_cell(6, model=size_of("mamba2"))
    assert cell_from_row(cell_to_row(cell)) == cell
    recounted = replace(cell.model, counts=replace(cell.model.counts, source="another version"))
    assert replace(cell, model=recounted).id == cell.id
    keys = plain_json({**cell.model.keys, "time_step_max": 0.2})
    other = replace(cell.model, config=keys)
    assert replace(cell, model=other).id != cell.id
    assert other.size_id != cell.model.size_id


def test_a_checkpoint_of_another_transformers_is_refused():
    cfg = size_of("llama")
    other = replace(cfg, counts=replace(cfg.counts, rest=cfg.counts.rest + 1))
    with pytest.raises(ValueError, match=r"parameters here, and .* were counted .* plan anew"):
        build(other)


def test_what_looks_at_later_tokens_is_refused_before_and_after_it_is_built():
    keys = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    still = {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
    with pytest.raises(ValueError, match="bert as configured looks at later tokens"):
        count("bert", keys | still, 128, 32)
    assert count("bert", keys | still | {"is_decoder": True}, 128, 32).n_layer == 1
    model = build(size_of("llama"))
    model.refuse_foresight()
    model.net.model.layers[1].self_attn.is_causal = False
    with pytest.raises(ValueError, match="looks at later tokens"):
        model.refuse_foresight()


@pytest.mark.parametrize(
    ("architecture", "keys", "said"),
    [
        ("lama", {}, "model.architecture=lama is no causal language model .*nearest: .*llama"),
        ("bert_generation_x", {}, "is no causal language model"),
        ("llama", {"hiden_size": 64}, "hiden_size is no key of llama; nearest: hidden_size"),
        ("llama", {"auto_map": {}}, "auto_map is no key of llama"),
        ("llama", {"_target_": "os.system"}, "_target_ is no key of llama"),
        ("llama", {"vocab_size": 7}, "vocab_size is the tokenizer's"),
        ("gpt2", {"n_positions": 7}, "n_positions is model.seq_len"),
        ("llama", {"hidden_size": 30, "num_attention_heads": 4}, "llama refuses its keys: .*30"),
        ("llama", {"hidden_size": "wide"}, "llama refuses its keys"),
        ("mamba2", {"hidden_size": 32, "num_heads": 3}, "mamba2 refuses its keys: .*must equal"),
        ("gpt2", {"n_embd": 32}, "without dropout: set model.base={.*resid_pdrop: 0"),
        ("mixtral", {"router_jitter_noise": 0.1}, "set model.base={router_jitter_noise: 0}"),
    ],
)
def test_a_configuration_that_can_not_be_is_refused_in_one_line(architecture, keys, said):
    with pytest.raises(ValueError, match=said) as refusal:
        make_config(architecture, keys, vocab_size=128, seq_len=32)
    assert "\n" not in str(refusal.value)


def test_keys_that_no_field_holds_are_known_where_the_code_reads_them():
    from transformers import LlamaConfig, Qwen3NextConfig

    assert {"full_attention_interval", "rope_theta"} <= known_keys(Qwen3NextConfig)
    assert "full_attention_interval" not in known_keys(LlamaConfig)
    assert "torchscript" not in known_keys(LlamaConfig)
