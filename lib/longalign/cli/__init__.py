"""Subcommands of `longalign` that ask models: options, what they do with them, what they print."""
