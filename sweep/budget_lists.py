"""What `isoflop budget` knows: models against a law, laws, hardware."""

from analysis.budget_laws import LAWS, kaplan_of_C, kaplan_of_D, kaplan_of_N
from analysis.known_models import MODELS, judge
from models.boards import BOARDS
from sweep.arguments import Arguments
from sweep.budget_answer import Answer, Figure, Table
from sweep.budget_given import law_of
from sweep.budget_questions import again


def models(args: Arguments) -> Answer:
    """Known models, over- or under-trained against a law."""
    law = law_of(args.app)
    rows = []
    for model in MODELS:
        verdict = judge(model, law)
        rows.append([
            Figure("model", "model", model.name),
            Figure("N", "N", model.N, "parameters"),
            Figure("D", "D", model.D, "tokens"),
            Figure("tokens_per_param", "D/N", model.tokens_per_param, "tokens/parameter"),
            Figure("C", "6ND", model.flops, "FLOPs"),
            Figure("optimal_N", "optimal N", verdict.optimum[0], "parameters"),
            Figure("ratio", "D/N over optimal", verdict.ratio, "times"),
            Figure("verdict", "verdict", verdict.word),
            Figure("excess_loss", "loss above optimal", verdict.excess_loss, "nats/token"),
        ])  # fmt: skip
    beyond = [m.name for m in MODELS if law.outside(m.N, m.D)]
    flags = [
        "over-trained is no fault: such a model costs less to serve. The word is used from 1.5 times the optimal D/N on",
        "a verdict is about compute at training, under one law; losses of different data can't be compared with it",
    ]
    if beyond and law.ranges:
        flags.append(
            f"{len(beyond)} of {len(MODELS)} lie outside the runs of {law.name}, so the law is extrapolated"
        )
    return Answer(
        "Known models against a law", tables=[Table("models", rows)], law=law,
        sources=_cited([(m.name, m.source) for m in MODELS]), flags=flags,
        next=f"under another law: {again(args, 'models', drop=('law',), law='hoffmann')}",
    )  # fmt: skip


def laws(args: Arguments) -> Answer:
    """List the laws with published constants."""
    rows = []
    for law in LAWS.values():
        N, D = law.optimum(1e22)
        rows.append([
            Figure("law", "law", law.name),
            *(Figure(k, k, getattr(law, k)) for k in ("E", "A", "B", "alpha", "beta", "gamma", "a")),
            Figure("tokens_per_param", "D/N at 1e22", D / N, "tokens/parameter"),
        ])  # fmt: skip
    single = [
        [Figure("law", "Kaplan et al. 2020", "L(N) = (8.8e13/N)^.076"), Figure("exponent", "exponent", 0.076), Figure("at", "at", "N = 1e9"), Figure("loss", "loss", kaplan_of_N(1e9), "nats/token")],
        [Figure("law", "", "L(D) = (5.4e13/D)^.095"), Figure("exponent", "", 0.095), Figure("at", "", "D = 1e10"), Figure("loss", "", kaplan_of_D(1e10), "nats/token")],
        [Figure("law", "", "L(C_min) = (3.1e8/C_min)^.050"), Figure("exponent", "", 0.050), Figure("at", "", "1 PF-day"), Figure("loss", "", kaplan_of_C(1.0), "nats/token")],
    ]  # fmt: skip
    return Answer(
        "Laws: L = E + (A/N^alpha + B/D^beta)^gamma, nats per token",
        tables=[Table("laws", rows), Table("kaplan", single)],
        sources=_cited([(law.name, law.source) for law in LAWS.values()])
        + _cited([(law.name, f"fitted on {law.regime}") for law in LAWS.values()]),
        flags=["losses of different data and tokenizers can't be compared; kaplan's N leaves embeddings out"],
        next="one of them, or your own: isoflop budget budget.ask=optimal budget.C=1e22 budget.law=hoffmann",
    )  # fmt: skip


def hardware(args: Arguments) -> Answer:
    """List the boards with their sources."""
    rows = [
        [
            Figure("hardware", "hardware", board.name),
            Figure("board", "board", board.board),
            Figure("peak", "dense bfloat16", board.flops, "FLOP/s"),
            Figure("watts", "at most", board.max_watts, "watts"),
            Figure("memory", "memory", board.memory_bytes, "bytes"),
            Figure("bandwidth", "bandwidth", board.bytes_per_second, "bytes/s"),
        ]
        for board in BOARDS.values()
    ]
    cited = _cited([(b.name, b.source) for b in BOARDS.values()])
    cited += _cited(
        [(b.name, f"memory: {b.memory_source}") for b in BOARDS.values() if b.memory_source]
    )
    return Answer(
        "Hardware", tables=[Table("hardware", rows)], sources=cited,
        flags=["what no source was read for is left out: give budget.peak=, memory=, bandwidth=, watts="],
        next="isoflop budget budget.N=7e9 budget.D=1e12 budget.hardware=h100 budget.mfu=.4",
    )  # fmt: skip


def _cited(pairs: list[tuple[str, str]]) -> list[str]:
    """Name each source once, with all that is from it."""
    by_source: dict[str, list[str]] = {}
    for name, source in pairs:
        by_source.setdefault(source, []).append(name)
    return [f"{', '.join(names)}: {source}" for source, names in by_source.items()]
