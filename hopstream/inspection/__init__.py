"""Looking at an index from outside: what it holds (`summary`), and whether it is sound (`verification`)."""
