"""An n-gram model of token sequences: estimated, kept as ARPA, read, and added to what a recogniser's beams say."""
