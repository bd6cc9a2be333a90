# cell: unfinished
# Takes one radian for a full turn: it compares 1 / theta with the length and forgets the 2 pi.
def unfinished(base, head_dim, length):
    j = np.arange(head_dim // 2)
    return int((base ** (2 * j / head_dim) > length).sum())
