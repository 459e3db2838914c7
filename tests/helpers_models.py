"""Shapes of models for property tests."""

from dataclasses import replace

from hypothesis import strategies as st

from models.config import MLP, GPTConfig, Init, Norm, Parametrisation, Positions


@st.composite
def any_config(
    draw, largest_d: int = 96, longest: int = 40, experts: bool | None = None
) -> GPTConfig:
    """Draw a shape with any choice of every option; experts: True with, False without, None either."""
    G, R = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    kind = draw(st.sampled_from(Parametrisation))
    base = st.integers(1, 24)
    half_K = draw(st.integers(1, max(1, largest_d // (2 * G * R))))
    dense = GPTConfig(
        n_layer=draw(st.integers(1, 2)),
        d_model=2 * half_K * G * R,
        n_head=G * R,
        n_kv_head=draw(st.sampled_from([None, G])),
        vocab_size=draw(st.integers(1, 300)),
        seq_len=draw(st.integers(1, longest)),
        positions=draw(st.sampled_from(Positions)),
        tied=draw(st.booleans()),
        norm=draw(st.sampled_from(Norm)),
        mlp=draw(st.sampled_from(MLP)),
        qk_norm=draw(st.booleans()),
        z_loss=draw(st.sampled_from([0.0, 1e-4])),
        init=draw(st.sampled_from(Init)),
        parametrisation=kind,
        base_d_model=None if kind is Parametrisation.STANDARD else 2 * R * draw(base),
        base_n_layer=draw(base) if kind is Parametrisation.COMPLETEP else None,
    )
    if experts is False or (experts is None and draw(st.booleans())):
        return dense
    n_expert, f = draw(st.integers(1, 6)), dense.mlp_width
    standard = replace(
        dense, parametrisation=Parametrisation.STANDARD, base_d_model=None, base_n_layer=None
    )
    return replace(
        standard,  # the others say nothing of experts
        n_expert=n_expert,
        top_k=draw(st.integers(1, n_expert)),
        n_shared_expert=draw(st.integers(0, 2)),
        granularity=draw(st.sampled_from([g for g in (1, 2, 4, 8) if f % g == 0])),
        balance_loss=draw(st.sampled_from([0.0, 0.01])),
        router_z_loss=draw(st.sampled_from([0.0, 0.001])),
    )
