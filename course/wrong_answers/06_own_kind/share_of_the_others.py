# cell: tie
# Returns the share of the other questions at which both score the same, which is one minus the share asked for.
def tie(a, b):
    own, others = a[0] - b[0], a[1] - b[1]
    if own == others:
        return None
    w = own / (own - others)
    return w if 0 <= w <= 1 else None
