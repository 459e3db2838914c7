"""Load checkpoints as anybody would, in a process that never sees our code.

`python fresh_loader.py JOBS.json` prints a JSON object a job: folder, expected (a safetensors file
of tokens and logits) and texts.
"""

import json
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

OURS = ("analysis", "conf", "models", "results", "slurm", "sweep")


@torch.no_grad()
def look_at(job):
    """Say what a checkpoint is, how far its logits are off, and the ids of the job's texts."""
    model, found = AutoModelForCausalLM.from_pretrained(job["folder"], output_loading_info=True)
    expected = load_file(job["expected"])
    logits = model(expected["tokens"]).logits
    said = {
        "class": type(model).__name__,
        "code_of": type(model).__module__.split(".")[0],
        "dtype": str(logits.dtype),
        "numbers": sum(p.numel() for p in model.parameters()),
        "wrong_keys": sum(len(names) for names in found.values()),
        "difference": (logits - expected["logits"]).abs().max().item(),
        "eos": [model.config.eos_token_id, GenerationConfig.from_pretrained(job["folder"]).eos_token_id],
    }  # fmt: skip
    if job["texts"]:
        tokenizer = AutoTokenizer.from_pretrained(job["folder"])
        said["eos"].append(tokenizer.eos_token_id)
        said["ids"] = [tokenizer(text)["input_ids"] for text in job["texts"]]
        said["back"] = [tokenizer.decode(ids) for ids in said["ids"]]
    return said


if __name__ == "__main__":
    torch.set_num_threads(1)
    with open(sys.argv[1]) as f:
        print(json.dumps([look_at(job) for job in json.load(f)]))
    assert not [m for m in sys.modules if m.split(".")[0] in OURS]
