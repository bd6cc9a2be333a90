"""Benchmarks in their published formats, for any model: read, asked, scored; all results are tidy rows."""
