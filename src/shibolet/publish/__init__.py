"""Stage: a kept round as a repository on the Hub: exported, described from its own files, uploaded."""
