"""The HTTP side: the fast lane, the application's routes, the page."""
