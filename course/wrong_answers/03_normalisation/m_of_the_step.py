# cell: local-m
# The number of sequences is that of the whole step: this is Eq. 2.
def local_m(N, packs):
    return 1 / (N * len(N))
