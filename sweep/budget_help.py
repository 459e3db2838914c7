"""What `isoflop budget --help` says: the questions, each with a command that works."""

EXAMPLES = {
    "train": ("FLOPs, GPU-hours, days, money and loss of N on D",
              "budget.N=7e9 budget.D=1e12 budget.hardware=a100 budget.mfu=.5 budget.gpus=64 budget.price=2"),
    "optimal": ("N, D, loss for a budget: C, gpu_hours or money",
                "budget.ask=optimal budget.gpu_hours=1000 budget.hardware=a100 budget.mfu=.5"),
    "inference": ("the same counting what will be served",
                  "budget.ask=inference budget.N=7e9 budget.serve_tokens=1e11"),
    "overtrain": ("smaller models trained longer, and what they must serve to pay",
                  "budget.ask=overtrain budget.N=7e9"),
    "serve": ("memory, KV cache, floor of latency, price of a million tokens",
              "budget.ask=serve budget.N=7e9 budget.hardware=h100 budget.price=2 budget.mfu=.3"),
    "data": ("repeated data: passes, and what they are worth",
             "budget.ask=data budget.N=7e9 budget.D=1e12 budget.unique_tokens=2e11"),
    "energy": ("kWh, and CO2 at budget.carbon= kg per kWh",
               "budget.ask=energy budget.N=7e9 budget.D=1e12 budget.hardware=a100 budget.mfu=.5"),
    "budgets": ("a table of budgets", "budget.ask=budgets budget.budgets=[1e20,1e21,1e22]"),
    "models": ("GPT-3 to Llama 3.1: over- or under-trained", "budget.ask=models"),
    "laws": ("published constants", "budget.ask=laws"),
    "hardware": ("boards: peak, power, memory", "budget.ask=hardware"),
}  # fmt: skip


def budget_help() -> str:
    """Return the questions of the verb, one command each."""
    lines = ["", "One question at a time, budget.ask=NAME (train where none is named):"]
    for name, (what, words) in EXAMPLES.items():
        lines += [f"  {name:9} {what}", f"            isoflop budget {words}"]
    return "\n".join([
        *lines,
        "budget.law=NAME or fits=[FILE] chooses the law, budget.format=json prints JSON.",
        "More, with real answers: docs/budget.md",
    ])  # fmt: skip
