"""A profile, the arms of every experiment, and what they score."""
