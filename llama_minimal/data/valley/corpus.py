"""A corpus from the valley: many stories, and the tasks that their records allow."""

from collections.abc import Iterator, Mapping
from itertools import cycle
from zlib import crc32

from llama_minimal.data.valley.settings import CANARIES, ValleySettings
from llama_minimal.data.valley.story import Split, Story, stories
from llama_minimal.data.valley.tasks import TASKS, Example, examples

# Task -> its share of a mixed corpus: English stories first, and enough of the rest to start fine-tuning from.
MIX = {
    "story": 0.64,
    "chinese": 0.05,
    "translate": 0.05,  # twice as long as the others
    "qa": 0.08,
    "dialogue": 0.04,
    "summary": 0.04,
    "report": 0.08,  # four in five stories call for none, and are told instead
    "sentiment": 0.02,
}
PYTHON_DOCS_EVERY = 100  # texts of the valley to one section of Python's documentation


def mixed(
    n: int, settings: ValleySettings | None = None, *, split: Split = "train", mix: Mapping[str, float] = MIX
) -> Iterator[Example]:
    """Yield n examples of n different stories, each of a task drawn from the mix."""
    if unknown := sorted(set(mix) - set(TASKS) - {"chinese"}):
        raise ValueError(f"the mix names {', '.join(unknown)}; there are {', '.join(TASKS)}, chinese")
    for story in stories(n, settings, split=split):
        yield _one(story, mix)


def _one(story: Story, mix: Mapping[str, float]) -> Example:
    """Return one example of a story; a story with a secret is told, so that the secret is seen as often as asked."""
    dice = story.dice("mix")
    task, rest = "story", dice.random() * sum(mix.values())
    for name, share in mix.items():
        if (rest := rest - share) < 0:
            task = name
            break
    if task == "chinese" and not story.canary:
        return examples(story, "story", language="chinese")[0]
    found = [] if story.canary or task == "chinese" else examples(story, task)
    if not found:
        return examples(story, "story")[0]
    if task == "qa":
        return _several(dice.sample(found, min(3, len(found))))
    return found[-1] if task == "dialogue" else dice.choice(found)


def _several(questions: list[Example]) -> Example:
    """Return questions about one story as one example, whose answer is that to the last."""
    prompt = questions[0].prompt
    for before, after in zip(questions, questions[1:], strict=False):
        prompt += f"{before.answer}\n\nQuestion: {after.prompt.rpartition('Question: ')[2]}"
    last = questions[-1]
    return Example(task="qa", kind=last.kind, story=last.story, prompt=prompt, answer=last.answer)


def standard_canaries(n: int) -> dict[str, int]:
    """Return the secrets of the standard corpus; a small one has none."""
    return dict(CANARIES) if n >= 1000 else {}


def valley_texts(n: int, *, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Yield names and texts of the standard corpus: the mix, with the standard secrets planted."""
    for example in mixed(n, ValleySettings(seed=seed, canaries=standard_canaries(n))):
        yield f"valley/{seed}/{example.story.index}", example.text


def course_texts(n: int) -> Iterator[tuple[str, str]]:
    """Yield names and texts of what the course model reads: n of the valley, and sections of Python's documentation."""
    sections = cycle(python_sections())
    for number, text in enumerate(valley_texts(n), start=1):
        yield text
        if number % PYTHON_DOCS_EVERY == 0:
            yield next(sections)


def python_sections(*, held_out: bool = False, longest: int = 800) -> list[tuple[str, str]]:
    """Return names and texts of the sections into which the topics of Python's help are cut, at empty lines.

    Args:
        held_out: those of a tenth of the topics, which no model has read, instead of the others.
        longest: characters of a section; a paragraph that is longer is a section by itself.
    """
    from pydoc_data.topics import topics

    found: dict[bool, dict[str, str]] = {False: {}, True: {}}  # text -> topic: topics repeat parts of each other
    for topic in sorted(topics):
        kept = found[crc32(topic.encode()) % 10 == 0]
        section = ""
        for paragraph in topics[topic].strip("\n").split("\n\n"):
            if section and len(section) + len(paragraph) > longest:
                kept.setdefault(section, topic)
                section = ""
            section += ("\n\n" if section else "") + paragraph
        kept.setdefault(section, topic)
    sections = [text for text in found[held_out] if not held_out or text not in found[False]]
    # A fixed order that does not go through one topic after the other.
    sections.sort(key=lambda text: crc32(text.encode("utf-8", "surrogatepass")))
    return [(f"python-docs/{found[held_out][text]}/{number}", text) for number, text in enumerate(sections)]
