"""Chinese, in simplified characters: a second telling of the same events."""

from llama_minimal.data.valley.telling import Telling


class Chinese(Telling):
    """To come."""

    language = "chinese"
    between_events = ""
