"""The gate: from the audit's verdicts on utterances to PROCEED, CAUTION, STOP or INVALID for the data set.

Reads counts and verdicts, never audio or models. The verdict is taken on the confidence interval of the rate: data
pass, or fail, only where the sample proves it, and only if the instrument has shown that it can be believed.
"""
