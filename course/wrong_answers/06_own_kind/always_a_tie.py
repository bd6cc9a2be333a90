# cell: tie
# The two lines always meet somewhere, but not always at a share from 0 to 1.
def tie(a, b):
    own, others = a[0] - b[0], a[1] - b[1]
    return others / (others - own)
