"""What tests of tokenized files share: samples, and what a store holds."""

from chat_tokenizers import assistant, user, word_tokenizer

WORDS = word_tokenizer()


def sample(number, words=20):
    return {"messages": [user(" ".join(f"w{(number + i) % 5}" for i in range(words))), assistant("w1 w2")]}


def contents(store):
    return {path.name: path.read_bytes() for path in store.folder.iterdir()}


def quiet(*told):
    """Progress that nobody needs."""
