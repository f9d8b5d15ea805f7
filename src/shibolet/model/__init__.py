"""Models: folders of weights, families (a package each), and the fast paths that they may share."""
