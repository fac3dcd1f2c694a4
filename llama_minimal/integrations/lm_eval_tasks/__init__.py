"""Tasks of the Llama Valley for lm-eval: a .yaml file each says how to ask, and ``valley.py`` makes the examples."""
