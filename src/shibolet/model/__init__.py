"""Models: what a family is (`outline`, `family`), a package for each, folders of weights, parts, adapters, kernels."""
