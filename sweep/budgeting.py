"""The verb `isoflop budget`: which questions there are, what each reads, and its answer."""

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from sweep.arguments import Arguments
from sweep.budget_answer import Answer, as_json, as_text
from sweep.budget_given import check_numbers
from sweep.budget_lists import hardware, laws, models
from sweep.budget_serving import inference, overtrain, serve
from sweep.budget_training import CLUSTER, budgets, data, energy, optimal, train
from sweep.errors import UsageError, nearest

_QUALITY = ("N", "D", "loss", "law")
_SERVED = ("serve_tokens", "queries", "tokens_per_query", "serve_hardware", "serve_peak",
           "serve_mfu", "serve_price", "hardware", "peak", "mfu", "records", "price")  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A question: its answer, and the keys of budget that it reads."""

    answer: Callable[[Arguments], Answer]
    reads: tuple[str, ...]

    @property
    def reads_law(self) -> bool:
        """Whether it reads a law, so also fits=."""
        return "law" in self.reads


QUESTIONS: dict[str, Question] = {
    "train": Question(train, ("N", "D", "C", "law", *CLUSTER)),
    "optimal": Question(optimal, ("C", "gpu_hours", "money", "tokens_per_param", "law", *CLUSTER)),
    "inference": Question(inference, (*_QUALITY, *_SERVED)),
    "overtrain": Question(overtrain, (*_QUALITY, *_SERVED, "sizes")),
    "serve": Question(serve, ("N", "dtype", "hardware", "peak", "gpus", "mfu", "price", "memory",
                              "bandwidth", "context", "batch", "n_layer", "n_kv_head", "head_dim")),
    "data": Question(data, ("N", "D", "C", "law", "unique_tokens", "R_D")),
    "energy": Question(energy, ("N", "D", "hardware", "peak", "mfu", "records", "watts", "pue", "carbon")),
    "budgets": Question(budgets, ("budgets", "law", *CLUSTER)),
    "models": Question(models, ("law",)),
    "laws": Question(laws, ()),
    "hardware": Question(hardware, ()),
}  # fmt: skip


def print_answer(args: Arguments, console: Console) -> int:
    """Answer one question; writes nothing.

    Raises:
        UsageError: an unknown question, a key that it does not read, one that it lacks.
    """
    budget = args.app.budget
    if budget.ask not in QUESTIONS:
        near = nearest(str(budget.ask), QUESTIONS)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"budget.ask={budget.ask} is unknown; {hint}it may be {', '.join(QUESTIONS)}"
        )
    if budget.format not in ("text", "json"):
        raise UsageError(f"budget.format={budget.format} is unknown; it may be text or json")
    _refuse_unread(args, budget.ask)
    check_numbers(budget)
    try:
        answer = QUESTIONS[budget.ask].answer(args)
        lines = _lines(args, answer)
    except OverflowError:
        raise UsageError("these numbers leave what can be computed: check their units") from None
    for line in lines:
        console.print(line)
    return 0


def _lines(args: Arguments, answer: Answer) -> list[str]:
    if args.app.budget.format == "text":
        return as_text(answer)
    given = {w.partition("=")[0]: w.partition("=")[2] for w in args.words}
    return [as_json(answer, args.app.budget.ask, given)]


def _refuse_unread(args: Arguments, ask: str) -> None:
    reads = {f"budget.{k}" for k in (*QUESTIONS[ask].reads, "ask", "format")}
    if QUESTIONS[ask].reads_law:
        reads.add("fits")
    for key in sorted(args.named - reads):
        name = key.removeprefix("budget.")
        others = [
            a for a, q in QUESTIONS.items() if name in q.reads or (name == "fits" and q.reads_law)
        ]
        raise UsageError(
            f"{key} is not read by budget.ask={ask}; it is read by {', '.join(others) or 'none'}, "
            f"and {ask} reads {', '.join(QUESTIONS[ask].reads) or 'nothing else'}"
        )
