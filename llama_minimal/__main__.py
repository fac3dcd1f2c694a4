"""``python -m llama_minimal`` is ``llama-minimal``."""

from llama_minimal.cli import main

if __name__ == "__main__":
    main()
