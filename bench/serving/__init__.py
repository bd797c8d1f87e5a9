"""Many texts, reuse and drafts: what bench.serving measures, a file for each kind."""
