# cell: wrong-k
# The trainer's mean over the K packs is left out.
def wrong_k(N, packs, counted):
    return counted / (N * len(N))
