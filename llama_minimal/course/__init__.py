"""What only the notebooks and the README need: figures, and later the exercises and the course model."""
