"""Real models and data, brought to a folder: from a wheel, from the Hub, from the form in which they were released."""
