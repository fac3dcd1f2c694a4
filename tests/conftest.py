"""What several test files share."""

import pytest
import torch
from hypothesis import settings
from tiny_models import SWITCHES, draw_model

from llama_minimal.checkpoint import save
from llama_minimal.model import Llama

# The same examples every time, and no time limit: machines are shared.
settings.register_profile("repository", deadline=None, derandomize=True)
settings.load_profile("repository")
# On tensors this small threads only wait for each other, ten times as long as they work when workers share the cores.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_model():
    """``make_model(seed=0, **changes)`` builds a tiny model with large random weights."""
    return draw_model


@pytest.fixture(scope="session")
def as_transformers(tmp_path_factory):
    """``as_transformers(model)`` is the model that the transformers library makes of the same weights."""
    transformers = pytest.importorskip("transformers")

    def convert(model: Llama):
        folder = tmp_path_factory.mktemp("transformers")
        save(model, folder, format="huggingface")
        return transformers.LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()

    return convert


@pytest.fixture(
    scope="session", params=SWITCHES, ids=lambda changes: ",".join(f"{k}={v}" for k, v in changes.items()) or "llama"
)
def switches(request):
    """Every switch of the config away from LLaMA's default, alone, and one mixture."""
    return request.param
