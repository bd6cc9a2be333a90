# cell: diagnose
# Any loss a little below the start is called a wrong K, also that of the token mean.
def diagnose(log, planned, start):
    if log.packs.iloc[-1] < planned.packs.iloc[-1]:
        return "last pack lost"
    missing = (log.targets < planned.targets).to_numpy()
    if missing[:4].all() and not missing[4:].any():
        return "first packs cut"
    if missing.any():
        return "longest dropped"
    return "wrong K" if log.loss.mean() < 0.98 * start else "nothing seen"
