"""What users hand in: single pictures, sets of posed views. Every file is checked here, once."""
