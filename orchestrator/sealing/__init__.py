"""Values that are kept sealed: keys, how they seal, and the file they are in. The only home of ciphers."""
