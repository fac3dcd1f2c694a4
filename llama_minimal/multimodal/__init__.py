"""Pictures and sound for a model of text: one ``Llama``, whose first layer takes more than token ids.

- ``Vocabulary``: which ids are text, which are codes that a model writes, which keep a place for what it reads.
- ``add_inputs``: features, projected to the model's width, are put into those places; all that follows is unchanged.
  ``llama_minimal.save`` keeps them, and the vocabulary, in a folder of our own format; ``load`` brings them back.
- ``examples``: rows of such examples for the one training loop. ``generate`` here is the one decoding loop.
- ``vision``, ``speech``: images as patches, sound as frames, and codes for both.

Example:
    >>> tokenizer = Tokenizer.train(["a digit: seven"], vocab_size=262)
    >>> vocabulary = Vocabulary(n_text=tokenizer.vocab_size, codes={"unit": 8}, inputs={"image": 4, "sound": 20})
    >>> config = LlamaConfig(dim=16, n_layers=1, n_heads=2, vocab_size=vocabulary.size, max_seq_len=64)
    >>> model = add_inputs(build(config), vocabulary)
    >>> patches = np.ones((3, 4), np.float32)  # N features of P numbers
    >>> prompt = vocabulary.prompt(tokenizer, ("image", patches), "a digit:")
    >>> answer = [*tokenizer.encode(" seven"), tokenizer.eos_id]
    >>> examples = MixedExamples.fill([Example(prompt, answer)] * 4, vocabulary)
    >>> recipe = TrainConfig(steps=60, batch_size=4, seq_len=examples.seq_len, lr=1e-2, warmup_steps=5)
    >>> trainer = Trainer(model, examples, recipe, objective=next_token_given)
    >>> for metrics in trainer.run():
    ...     pass
    >>> from llama_minimal import multimodal
    >>> [written] = multimodal.generate(model, tokenizer, [prompt], max_new_tokens=8)
    >>> written.text
    ' seven'

A model that writes codes (speech, or a drawing) learns codes and an end token as its answer:
``vocabulary.prompt(tokenizer, ("unit", [3, 1, 4]), bos=False).ids + [tokenizer.eos_id]``. Then
``multimodal.generate(model, None, prompts, stop_ids=[tokenizer.eos_id])`` writes them, and
``id - vocabulary.code_ids("unit")[0]`` is the number of a code.
"""

from llama_minimal.inputs import MixedEmbedding, add_inputs, given, place_features
from llama_minimal.multimodal.examples import Example, MixedExamples, next_token_given
from llama_minimal.multimodal.writing import generate, stack_features
from llama_minimal.vocabulary import Prompt, Vocabulary

__all__ = [
    "Example",
    "MixedEmbedding",
    "MixedExamples",
    "Prompt",
    "Vocabulary",
    "add_inputs",
    "generate",
    "given",
    "next_token_given",
    "place_features",
    "stack_features",
]
