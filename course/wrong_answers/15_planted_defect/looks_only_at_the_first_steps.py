# cell: diagnose
# Calls every loss of sequences in the first four steps a cut, but the longest ones may be there too.
def diagnose(log, planned, start):
    if log.packs.sum() < planned.packs.sum():
        return "last pack lost"
    fewer = log.sequences < planned.sequences
    if fewer[:4].any():
        return "first packs cut"
    if fewer.any():
        return "longest dropped"
    if log.loss.mean() < 0.6 * start:
        return "wrong K"
    return "nothing seen"
