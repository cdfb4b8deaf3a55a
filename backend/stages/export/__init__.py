"""Export: the files a user gets."""
