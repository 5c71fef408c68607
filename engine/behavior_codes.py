"""What a user showed towards an item of the history: the code by which the learned metric weighs it."""

BEHAVIOR_CODES = 3
OTHER_ONLY, TARGET_ONLY, BOTH = range(BEHAVIOR_CODES)
