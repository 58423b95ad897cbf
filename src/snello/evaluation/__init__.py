"""Problems, policies side by side, and the report."""
