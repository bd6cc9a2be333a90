"""Conversations to a token store: read line by line, tokenized by the chat template, cut, written in parts."""
