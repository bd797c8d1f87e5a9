"""Chats: turns become a prompt in the model's format, and the answer a turn."""
