"""The recipe: lengths to packs, packs to a plan, plan to weights, attention and loss; numpy and torch alone."""
