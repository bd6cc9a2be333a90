"""Judges of answers: prompts, ratings read strictly, scores with intervals, and how far a judge can be trusted."""
