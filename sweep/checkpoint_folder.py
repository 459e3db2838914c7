"""Open a checkpoint of transformers on this machine: safetensors only, and no code of its own."""

from pathlib import Path
from typing import Any

from sweep.documents import first_line, missing_package
from sweep.errors import UsageError


def transformers_of(what: str) -> Any:
    """Import transformers, which is to draw no progress bar and to leave warnings to us.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise UsageError(missing_package("transformers", what)) from None
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    return transformers


def check_is_checkpoint(folder: Path) -> None:
    """Refuse what is no folder of a checkpoint, without looking further.

    Raises:
        UsageError: there is no config.json.
    """
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"{folder} is no checkpoint of transformers (it has no config.json): name a folder that "
            "isoflop export or save_pretrained wrote"
        )


def open_model(folder: Path, what: str) -> Any:
    """Load a causal language model in float32, in evaluation mode.

    Args:
        folder: with config.json and *.safetensors.
        what: is done with it, for messages.

    Raises:
        UsageError: no checkpoint, one of pickles or of own code, or one that lacks weights.
    """
    transformers = transformers_of(what)
    import torch

    try:
        model, found = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, use_safetensors=True,
            dtype=torch.float32, output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as e:
        raise UsageError(
            f"{folder} can't be loaded ({first_line(e)}): isoflop takes safetensors of an "
            "architecture that transformers knows, never a pickle or a model's own code"
        ) from None
    wrong = {kind: min(map(str, names)) for kind, names in found.items() if names}
    if wrong:
        raise UsageError(
            f"{folder} does not hold the weights that its config.json asks for: {wrong}"
        )
    return model.eval()
