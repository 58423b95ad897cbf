"""Where tokens live: pages, the window ring, survivors, and the memories built of them."""
