"""Evaluation: each module is one metric or benchmark; results are tidy rows."""
