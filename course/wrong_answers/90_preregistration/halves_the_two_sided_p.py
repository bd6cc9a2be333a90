# cell: p-value
# Halves the two-sided p value without looking at the sign, so a difference the other way is borne out as well.
def p_value(differences):
    return stats.ttest_1samp(differences, 0).pvalue / 2
