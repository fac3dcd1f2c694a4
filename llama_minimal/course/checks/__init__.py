"""The exercises, a module for each chapter: what is right, and the mistakes that are recognized."""
