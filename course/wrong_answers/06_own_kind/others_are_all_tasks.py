# cell: group-means
# Takes the mean over all tasks for the mean over the others, so the own tasks are in both groups.
def group_means(rows, own):
    by_task = rows.groupby(["arm", "task"]).value.mean()
    result = {}
    for arm in rows.arm.unique():
        of_arm = by_task[arm]
        result[arm] = (of_arm[of_arm.index.isin(own)].mean(), of_arm.mean())
    return result
