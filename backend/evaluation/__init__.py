"""The papers' measurements as a command: objects in, tables out."""
