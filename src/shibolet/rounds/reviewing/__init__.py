"""Review by ear: a page that this machine serves, answers that are kept as they are given, and what they come to."""
