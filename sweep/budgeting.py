"""The verb `isoflop budget`: the answer to each question, and what it refuses."""

from collections.abc import Callable

from rich.console import Console

from sweep.arguments import Arguments
from sweep.budget_answer import Answer, as_json, as_text
from sweep.budget_given import check_numbers
from sweep.budget_lists import hardware, laws, models
from sweep.budget_questions import READS, reads
from sweep.budget_serving import inference, overtrain, serve
from sweep.budget_training import budgets, data, energy, optimal, train
from sweep.errors import UsageError, nearest

_ANSWERS: dict[str, Callable[[Arguments], Answer]] = {
    "train": train,
    "optimal": optimal,
    "inference": inference,
    "overtrain": overtrain,
    "serve": serve,
    "data": data,
    "energy": energy,
    "budgets": budgets,
    "models": models,
    "laws": laws,
    "hardware": hardware,
}


def print_answer(args: Arguments, console: Console) -> int:
    """Answer one question; writes nothing.

    Raises:
        UsageError: an unknown question, a key that it does not read, one that it lacks.
    """
    budget = args.app.budget
    if budget.ask not in _ANSWERS:
        near = nearest(str(budget.ask), _ANSWERS)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"budget.ask={budget.ask} is unknown; {hint}it may be {', '.join(_ANSWERS)}"
        )
    if budget.format not in ("text", "json"):
        raise UsageError(f"budget.format={budget.format} is unknown; it may be text or json")
    _refuse_unread(args, budget.ask)
    check_numbers(budget)
    try:
        answer = _ANSWERS[budget.ask](args)
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
    for key in sorted(args.named - {"budget.ask", "budget.format"}):
        if reads(ask, key):
            continue
        others = [other for other in READS if reads(other, key)]
        raise UsageError(
            f"{key} is not read by budget.ask={ask}; it is read by {', '.join(others) or 'none'}, "
            f"and {ask} reads {', '.join(READS[ask]) or 'nothing else'}"
        )
