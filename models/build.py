"""Build the model of a cell: our GPT, or an architecture of transformers."""

from models.config import Attention, CrossEntropy
from models.gpt import GPT
from models.hf_config import HFConfig
from models.size import Size


def make_model(cfg: Size, implementation: Attention, cross_entropy: CrossEntropy):
    """Return a module with GPT's interface; transformers is imported only where it is asked for."""
    if isinstance(cfg, HFConfig):
        from models.hf import HFModel

        return HFModel(cfg)
    return GPT(cfg, implementation, cross_entropy)
