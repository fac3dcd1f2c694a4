"""Chat: how turns become one text by a template, which is data, and which turns still fit the context."""

from llama_minimal.chat.conversation import Conversation
from llama_minimal.chat.template import ChatTemplate, Message, chat_template, set_chat_template

__all__ = ["ChatTemplate", "Conversation", "Message", "chat_template", "set_chat_template"]
