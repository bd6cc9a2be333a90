# cell: compare
# Takes the correlation for the cosine: it subtracts the mean of each vector first.
def compare(gradient, reference):
    ratio = np.linalg.norm(gradient) / np.linalg.norm(reference)
    return ratio, np.corrcoef(gradient, reference)[0, 1]
