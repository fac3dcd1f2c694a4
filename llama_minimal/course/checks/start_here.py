"""The exercise of chapter 00, which shows how exercises work."""

from llama_minimal.course.exercises import Exercise

EXERCISES = {
    "mean": Exercise(
        right=lambda numbers: sum(numbers) / len(numbers),
        cases=[([3.0, 5.0, 10.0],), ([1.0, 2.0],), ([4.0, -1.0, 0.5, 9.0, 2.5],)],
        draw=lambda rng: (rng.normal(size=int(rng.integers(1, 9))).tolist(),),
        mistakes={
            "this is the sum; divide by how many there are": lambda numbers: sum(numbers),
            "this is the median; sum and divide": lambda numbers: sorted(numbers)[len(numbers) // 2],
            "it divides by two, whatever the length": lambda numbers: sum(numbers) / 2,
            "this is upside down: the sum goes on top": lambda numbers: len(numbers) / sum(numbers),
            "the division cuts off what is behind the point: use /, not //": lambda numbers: (
                sum(numbers) // len(numbers)
            ),
            "this is the largest number": lambda numbers: max(numbers),
        },
    ),
}
