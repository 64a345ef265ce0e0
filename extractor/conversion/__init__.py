"""Published weights of others, turned into ours without the libraries they were made with."""
