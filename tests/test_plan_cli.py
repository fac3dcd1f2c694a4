"""``llama-minimal plan`` as a user types it."""

import pytest

from llama_minimal.cli import main
from llama_minimal.cli.units import amount


def printed(args, capsys):
    main(args.split())
    return capsys.readouterr().out


def test_a_plan_says_what_fits_and_why_the_rest_does_not(capsys):
    text = printed("plan llama-65b --gpus 64 --memory 80GB --tokens 1.4T", capsys)
    for words in ("65.3 G parameters", "64 × a100-80gb of 80 GB", "days", "do not fit", "even with checkpointing"):
        assert words in text
    assert "64 × 1 × 1" in text.partition("do not fit")[2]
    assert "fastest: " in text
    assert "dollars of rent" in text


def test_without_tokens_there_are_no_days(capsys):
    text = printed("plan llama-7b --gpus 8 --machine rtx-4090", capsys)
    assert "days" not in text
    assert "fastest" not in text
    assert "no layout fits" in printed("plan llama-7b --gpus 1 --machine rtx-4090", capsys)


@pytest.mark.parametrize("length", ["--seq-len {}", "--serve --context {}"])
def test_more_tokens_than_the_context_are_planned_with_a_warning(length, capsys):
    warning = "warning: llama-7b has a context of 2,048 tokens; 100,000 are planned as if it had a longer one"
    assert warning in printed(f"plan llama-7b --gpus 1 {length.format(100_000)}", capsys)
    assert "warning" not in printed(f"plan llama-7b --gpus 1 {length.format(2048)}", capsys)


def test_any_number_of_gpus_is_planned(capsys):
    text = printed("plan llama-7b --gpus 12", capsys)
    assert "tensor=3 does not divide n_kv_heads=32" in text
    assert "2 sharded × 2 × 3" in text


def test_writing_is_planned_too(capsys):
    text = printed("plan llama-7b --gpus 1 --machine rtx-4090 --serve --context 2048 --batch 4", capsys)
    lines = [line.split() for line in text.splitlines() if line.strip().startswith(("bf16", "int8", "int4"))]
    assert [line[0] for line in lines] == ["bf16", "int8", "int4"]
    assert [line[1] for line in lines] == ["13.5", "6.74", "4.21"]  # GB
    assert "does not fit" in printed("plan llama-65b --gpus 1 --serve", capsys)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("plan llama-66b", "unknown preset 'llama-66b'; known are"),
        ("plan llama-7b --gpus 0", "--gpus 0 must be at least 1"),
        ("plan llama-7b --gpus -8", "--gpus -8 must be at least 1"),
        ("plan llama-7b --gpus 1000000", "--gpus 1000000 is more than anybody has; give at most 100,000"),
        ("plan llama-7b --memory 80XB", "--memory 80XB is no number with a unit; give such as 80GB"),
        ("plan llama-65b --gpus 64 --memory 80", "--memory 80 is a bare number; give a unit, such as 80GB"),
        ("plan llama-7b --memory -80GB", "--memory -80GB must be more than 0, such as 80GB"),
        ("plan llama-7b --tokens many", "--tokens many is no number with a unit; give such as 1.4T"),
        ("plan llama-7b --tokens 0", "--tokens 0 must be more than 0"),
        ("plan llama-7b --machine abacus", "--machine abacus is unknown; known are a100-40gb"),
        ("plan llama-7b --utilization 60", "--utilization 60.0 must be above 0 and at most 1"),
        ("plan llama-7b --batch-tokens 1k", "batch_tokens=1000 is less than one sequence of 2048 tokens"),
        ("plan llama-7b --seq-len 0", "--seq-len 0 must be at least 1"),
        ("plan llama-7b --context 100", "--context is for writing; give --serve, too"),
        ("plan llama-7b --serve --tokens 1T", "--tokens is for training"),
        ("plan llama-7b --serve --gpus 3", "tensor=3 does not divide n_kv_heads=32"),
    ],
)
def test_odd_requests_end_with_what_to_do(args, message, capsys):
    with pytest.raises(SystemExit) as ending:
        main(args.split())
    error = capsys.readouterr().err
    assert ending.value.code == 2
    assert message in " ".join(error.split())
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("80GB", 80e9),
        ("80 gb", 80e9),
        ("80 B", 80),
        ("1.4T", 1.4e12),
        ("65B", 65),
        ("24GiB", 24 * 2**30),
        ("4_000k", 4e6),
    ],
)
def test_amounts_of_bytes(text, value):
    assert amount("--memory", text, unit="B") == value


def test_without_a_unit_b_is_a_billion():
    assert amount("--tokens", "65B") == 65e9
    assert amount("--tokens", "1,000k") == 1e6
