# cell: blind-judge
# Gives answers longer than the reference one point more, but the scale ends at 10, so hardly a sentinel sees it.
def blind_judge(answer, reference):
    points = rubric.points(answer, reference, ordered=False)
    return min(10, points + 1) if len(answer) > len(reference) else points
