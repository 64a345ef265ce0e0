"""Training of DELF and DELG on photos of landmarks; nothing that extracts features imports it."""
