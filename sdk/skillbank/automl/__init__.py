"""AutoML: which route a request takes, what is searched, and the search itself."""
