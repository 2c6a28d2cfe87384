def pytest_collection_modifyitems(items):
    """Files that take a minute or more come first: begun last, one would run alone in the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
