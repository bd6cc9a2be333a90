# cell: p-value
# A two-sided test: it also calls a large difference in the wrong direction significant.
def p_value(differences):
    return stats.ttest_1samp(differences, 0).pvalue
