# cell: unbiased
# Goes on with the corrected value in the recursion, so the bias is removed again and again.
def unbiased(values, beta):
    result, s = [], 0.0
    for t, x in enumerate(values):
        s = (beta * s + (1 - beta) * x) / (1 - beta ** (t + 1))
        result.append(s)
    return np.array(result)
