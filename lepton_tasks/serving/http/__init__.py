"""HTTP: the fast path for predictions, the application's routes, the page."""
