"""One file for each family of tasks; `registry` knows them by name."""
