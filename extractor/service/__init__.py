"""An extractor behind HTTP: photos in, features out, in batches of whoever asks at the same time."""
