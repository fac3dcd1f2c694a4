"""What a model owes to people: fairness, decency, and the privacy of what it has read."""
