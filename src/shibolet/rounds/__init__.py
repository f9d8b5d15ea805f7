"""A round: the stages of one recipe in one run folder, in order. Stages do not know each other; here they meet."""
