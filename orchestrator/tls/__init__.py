"""Certificates: read from files and again when these change, judged, and made."""
