"""The architectures of transformers, built small, and what this library computes exactly of them (`make models`)."""
