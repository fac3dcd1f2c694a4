"""Examples as token ids, and which of them a model learns to write."""

from collections.abc import Sequence

from llama_minimal.chat import ChatTemplate
from llama_minimal.data.packing import EncodedExample
from llama_minimal.finetuning.kinds import Chat, Example, Labeled, Pair, shown
from llama_minimal.generation import encode_prompt
from llama_minimal.tokenizer import TextCodec


def encode_examples(
    tokenizer: TextCodec,
    examples: Sequence[Example],
    *,
    template: ChatTemplate | None = None,
    labels: Sequence[str] | None = None,
) -> list[EncodedExample]:
    """Return examples as ids with a mask of what is learned: the answers, and that they end.

    A pair is the prompt as ``generate`` encodes it, the completion, and the token that ends a text. A chat is what its
    template writes, and what the assistant says is learned. Of a labeled text, the label is learned at the last token.

    Args:
        template: of chats; ``chat_template(tokenizer)`` is the one that came with a model.
        labels: all that there are, in the order of the model's outputs.

    Raises:
        ValueError: if an example is none of ours, a chat has no template or does not fit it, a label is not among the
            labels, or the tokenizer has no token that ends a text.
    """
    return [_encode(tokenizer, example, template, labels) for example in examples]


def _encode(
    tokenizer: TextCodec, example: Example, template: ChatTemplate | None, labels: Sequence[str] | None
) -> EncodedExample:
    if isinstance(example, Pair):
        if tokenizer.eos_id is None:
            raise ValueError("the tokenizer has no token that ends a text, so a model could not learn to stop")
        prompt = encode_prompt(tokenizer, example.prompt)
        answer = [*tokenizer.encode(example.completion), tokenizer.eos_id]
        return EncodedExample(prompt + answer, [False] * len(prompt) + [True] * len(answer))
    if isinstance(example, Chat):
        if template is None:
            raise ValueError("the examples are chats, and the model has no chat template; give one (template=)")
        return EncodedExample(*template.encode_with_mask(example.messages))
    if not isinstance(example, Labeled):
        raise ValueError(
            f"{shown(example)} is no example; give Pair(prompt, completion), Chat(messages) or Labeled(text, label), "
            f"or what read_examples makes of dictionaries"
        )
    if labels is None or example.label not in labels:
        known = "none were given" if labels is None else f"they are {', '.join(labels)}"
        raise ValueError(f"the label {example.label!r} is not among the labels; {known}")
    ids = encode_prompt(tokenizer, example.text)
    return EncodedExample(ids, [False] * len(ids), label=list(labels).index(example.label))
