"""What trainings are measured against: plain scripts, as a person would write them without Ganglion."""
