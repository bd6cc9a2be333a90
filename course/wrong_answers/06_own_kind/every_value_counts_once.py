# cell: group-means
# The mean over all values: a task with many values counts more.
def group_means(rows, own):
    inside = rows.task.isin(own)
    return {arm: (part.value[inside].mean(), part.value[~inside].mean()) for arm, part in rows.groupby("arm")}
