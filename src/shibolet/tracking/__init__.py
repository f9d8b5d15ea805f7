"""Where a round can be watched: TensorBoard always, Weights & Biases where the recipe names a project.

Trackers get numbers and texts, and documents that stages have left; nothing is computed for them. They know no stage.
"""
