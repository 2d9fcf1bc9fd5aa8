"""Parts of networks that two or more networks use."""
