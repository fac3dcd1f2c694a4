"""What a model should not do: bias measured and reduced, an output filter, and secrets kept."""
