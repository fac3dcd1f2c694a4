"""What a training run prints at its end: how good the model is, and what it writes."""

from typing import Any


def print_report(loss: float, train: Any, validation: Any) -> None:
    """Print a validation loss beside two baselines that know less."""
    from llama_minimal.evaluation import Evaluation, bigram_loss, uniform_loss

    n = validation.n_tokens - 1
    rows = {
        "this model": loss,
        "bigram counts": bigram_loss(train.tokens, validation.tokens, train.vocab_size),
        "uniform guess": uniform_loss(train.vocab_size),
    }
    print("\nvalidation loss (nats per token, perplexity, bits per byte)")
    for name, value in rows.items():
        result = Evaluation(total=value * n, n_tokens=n, n_bytes=validation.n_bytes)
        print(f"  {name:<13}  {value:6.3f}  {result.perplexity:8.2f}  {result.bits_per_byte:6.3f}")


def print_sources(trainer: Any, train: Any, validation: Any) -> None:
    """Print of each of several sources how often it was read, and the validation loss on it."""
    from llama_minimal.evaluation import Evaluation

    if not train.sources:
        return
    print("\nsources (share of the training text, times read, nats per token, bits per byte)")
    width = max(map(len, train.sources))
    shares, epochs = trainer.batches.shares(), trainer.batches.epochs(trainer.step)
    for name, source in validation.sources.items():
        n = source.n_tokens - 1
        result = Evaluation(total=trainer.source_losses[name] * n, n_tokens=n, n_bytes=source.n_bytes)
        how_often = f"{shares[name]:6.1%}  {epochs[name]:6.2f}"
        print(f"  {name:<{width}}  {how_often}  {result.loss:6.3f}  {result.bits_per_byte:6.3f}")


def print_samples(model: Any, tokenizer: Any, *, n: int) -> None:
    """Print texts that the model writes from nothing but what stands before, or between, the texts it read."""
    from llama_minimal.generation import generate
    from llama_minimal.settings import Sampling

    if n:
        start = list(tokenizer.start_ids) or [tokenizer.eos_id or 0]
        room = min(200, model.config.max_seq_len - 1)
        sampling = Sampling(temperature=0.7, top_p=0.95)
        model.eval()
        for i, completion in enumerate(generate(model, tokenizer, [start] * n, max_new_tokens=room, sampling=sampling)):
            print(f"\n--- sample {i + 1} ---\n{completion.text.strip()}")
